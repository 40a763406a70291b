"""Find where SE belongs in the recorded graph."""
