"""Images: find, decode, crop, augment and batch them."""
