"""How many machines take part, and which process this is, as the cluster says."""

import os
from collections.abc import Mapping


def nodes_from_environment(environment: Mapping[str, str] = os.environ) -> int:
    """Slurm's number of nodes, else torchrun's, else 1."""
    # Slurm sets this too in an interactive shell on a login node's allocation, where no srun starts the other ranks.
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return int(environment.get("SLURM_JOB_NUM_NODES") or environment.get("SLURM_NNODES") or 1)
    if "LOCAL_WORLD_SIZE" in environment and "WORLD_SIZE" in environment:
        return int(environment["WORLD_SIZE"]) // int(environment["LOCAL_WORLD_SIZE"])
    return 1


def rank_from_environment(environment: Mapping[str, str] = os.environ) -> int:
    """This process's place among those of its run, from 0, as torchrun, Lightning or srun say."""
    ranks = (environment.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((int(rank) for rank in ranks if rank), 0)
