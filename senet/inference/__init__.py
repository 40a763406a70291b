"""The inference form: the squeeze before the last linear layer, on the exported graph."""
