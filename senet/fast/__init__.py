"""The same function for less: one pass in training, the squeeze moved through in inference, and files to ship."""
