"""A trained network measured on images."""
