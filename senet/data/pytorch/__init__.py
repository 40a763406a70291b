"""Images in PyTorch's own data sets."""
