"""`make bench`: what nbtrain costs beside a script written by hand, measured in the same run."""

#: Where this is in the environment, everything is so small that it only shows that it runs.
SMALL = "BENCH_SMALL"
