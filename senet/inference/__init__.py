"""The inference form: an exported graph with the squeeze moved before the last linear layer."""
