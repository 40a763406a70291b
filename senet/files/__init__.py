"""Files that are whole or not there: atomic writes, run folders, the format of a saved network."""
