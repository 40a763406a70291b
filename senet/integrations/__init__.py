"""Keep SE in the networks that trainers and loaders of other libraries build."""
