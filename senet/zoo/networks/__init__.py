"""The networks of the paper, one family a file."""
