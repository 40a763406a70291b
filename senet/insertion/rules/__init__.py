"""Where SE belongs in that graph."""
