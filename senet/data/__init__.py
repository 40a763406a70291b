"""Images: where they lie, how they are decoded, cut, mixed and batched."""
