"""Train a network: the loop, its checkpoints, its processes."""
