"""The five passes over an activation: in C, in Triton, in PyTorch's operations."""
