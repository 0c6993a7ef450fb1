"""Slurm: what it says of the job that this process runs in, scripts for new jobs, and checks before they are sent."""
