"""The processes that share an evaluation: started by Lightning's Fabric, or found as torchrun or srun started them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mapolab.config.environment import nodes_from_environment


@dataclass(frozen=True)
class Processes:
    """This process's rank, how many there are, and the device that is its own: `cpu` or `cuda:0`."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    fabric: Any = None

    def barrier(self) -> None:
        """Wait for all."""
        if self.fabric is not None and self.count > 1:
            self.fabric.barrier()


def start_processes(devices: int | str) -> Processes:
    """devices: processes on this machine; `auto`: as torchrun or srun say, else every GPU, else one on the CPU."""
    import torch

    local = _local_processes() if devices == "auto" else devices
    local = local or max(torch.cuda.device_count(), 1)
    nodes = nodes_from_environment()
    on_gpu = torch.cuda.is_available()
    if local * nodes == 1:
        return Processes(device="cuda:0" if on_gpu else "cpu")
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    from mapolab.training.cluster import cluster_environment

    # A process that has drawn its share waits for the slowest one, however long that takes.
    strategy = DDPStrategy(timeout=timedelta(days=30))
    fabric = Fabric(
        accelerator="gpu" if on_gpu else "cpu",
        devices=local,
        num_nodes=nodes,
        strategy=strategy,
        plugins=cluster_environment(),
    )
    fabric.launch()
    return Processes(fabric.global_rank, fabric.world_size, str(fabric.device), fabric)


def _local_processes() -> int | None:
    """Processes on this machine, as torchrun or Slurm started them; None where neither did."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    if "SLURM_STEP_ID" in os.environ and "SLURM_NTASKS" in os.environ:
        return int(os.environ["SLURM_NTASKS"]) // nodes_from_environment()
    return None
