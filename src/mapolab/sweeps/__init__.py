"""Sweeps: many runs from one command. Each job is a `mapolab train` of its own, started here, by Slurm or by Ray."""
