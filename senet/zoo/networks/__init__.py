"""The paper's networks, one family per file."""
