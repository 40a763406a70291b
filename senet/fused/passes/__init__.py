"""The five passes over an activation, in C, in Triton, and in PyTorch's operations."""
