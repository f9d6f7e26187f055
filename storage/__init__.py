"""What is kept on disk: the packed network and the state of a run, pretrained weights."""
