"""A plain network and one with SE, trained from the same seeds on the same batches."""
