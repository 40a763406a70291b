"""What `senet` can be told to do, a group of verbs a file: typed functions, whose parameters are the flags."""
