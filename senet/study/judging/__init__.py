"""Judge any training without and with SE."""
