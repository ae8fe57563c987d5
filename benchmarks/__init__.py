"""`make bench`: what nbtrain costs beside a script written by hand, measured in the same run."""
