"""SE joined to a network, and taken out again."""
