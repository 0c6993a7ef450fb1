"""Jobs as an array of Slurm: what they ask for, checks before they are sent, the script, the queue."""
