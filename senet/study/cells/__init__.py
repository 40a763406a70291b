"""A study's cells: one variant and one seed each, trained by a command that can be repeated."""
