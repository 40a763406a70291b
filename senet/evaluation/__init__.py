"""Measure a trained network on images."""
