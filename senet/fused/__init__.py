"""Training: normalisation and SE in one pass."""
