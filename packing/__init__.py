"""Around the algorithm of pruning.py: masks kept by the caller, each task's own parameters,
capacity, plain loops."""
