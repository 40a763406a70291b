"""Join SE to a network, and take it out again."""
