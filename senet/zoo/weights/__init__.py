"""Read published and saved weights into a network."""
