"""Record the network as a graph from one run."""
