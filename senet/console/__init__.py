"""Output in a terminal: numbers with units, tables, progress, the machine."""
