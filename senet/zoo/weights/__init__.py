"""Published and saved weights, read into a network."""
