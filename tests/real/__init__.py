"""Programs of several kinds, as their users write them, and the test that trains them."""
