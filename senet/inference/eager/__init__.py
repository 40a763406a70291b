"""Compiled calls for the inference form's final steps in eager PyTorch."""
