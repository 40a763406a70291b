"""Fuse normalisation and SE into one pass in training; see README.md."""
