"""One process against N workers, for every form that Keras users write."""
