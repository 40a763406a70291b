"""The paper's printed numbers, and its cost tables recomputed."""
