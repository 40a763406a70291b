"""Names of networks: the zoo's, torchvision's, timm's, a person's own file."""
