"""A small package of one's own, for the notebook 02."""
