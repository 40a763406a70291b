"""Images that PyTorch's own classes hold."""
