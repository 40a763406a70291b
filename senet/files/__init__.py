"""Files: atomic writes, run folders, the format of a saved network."""
