"""A study's cells: one variant and one seed, trained by one command that can be repeated."""
