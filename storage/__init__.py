"""What is kept on disk: atomic writes, the packed network and the state of a run, pretrained weights."""
