"""Where the trunks beside VGG come from: Jittor's model zoo, the vision transformer, a file of the
user's own."""
