"""The network as a graph, read from one run."""
