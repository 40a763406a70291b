"""Compare a plain network with one with SE, trained from the same seeds on the same batches."""
