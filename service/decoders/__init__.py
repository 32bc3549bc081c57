"""Sound from strangers, decoded in processes that can do nothing else."""
