"""Training: normalisation and SE in one pass. README.md says how."""
