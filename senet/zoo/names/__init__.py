"""Names of networks: the zoo's, torchvision's, timm's, and functions in the user's files."""
