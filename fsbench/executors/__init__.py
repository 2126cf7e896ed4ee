"""Where runs are carried out: one after the other in this process, or side by side through Ray or SLURM."""
