"""Trainers of other libraries that build their network themselves, so that SE stays in it."""
