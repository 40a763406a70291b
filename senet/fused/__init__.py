"""SE together with the normalisation before it, in training and in inference; see README.md."""
