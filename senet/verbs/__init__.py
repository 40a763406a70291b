"""The verbs of the command, grouped in files: typed functions whose parameters are the flags."""
