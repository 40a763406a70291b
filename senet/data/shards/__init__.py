"""Images in WebDataset shards."""
