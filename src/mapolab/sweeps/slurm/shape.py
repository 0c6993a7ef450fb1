"""What a job asks Slurm for, from the run's config and the launcher's settings; refused where they contradict."""

import math
import re
from dataclasses import dataclass
from typing import Any

from mapolab.errors import UserError

SHORTEST_WITH_NOTICE = 600  # seconds
TIME = re.compile(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+)(?::(\d+))?(?::(\d+))?)")


@dataclass(frozen=True)
class Shape:
    """nodes, tasks_per_node, gpus_per_node: of one job. seconds: its time limit. notice: seconds before it at which
    Slurm sends a signal, beside the run's own look at the clock; None: no signal."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    seconds: int
    notice: int | None

    @classmethod
    def of(cls, config: dict[str, Any], settings: dict[str, Any]) -> "Shape":
        """Raises UserError, naming the fix, where run and launcher do not fit together."""
        nodes, gpus = settings["nodes"], settings["gpus_per_node"]
        if type(nodes) is not int or nodes < 1:
            raise UserError(f"hydra.launcher.nodes is {nodes}; give a number of 1 or more.")
        if not (gpus == "auto" or (type(gpus) is int and gpus >= 0)):
            raise UserError(f"hydra.launcher.gpus_per_node is {gpus}; give a number of 0 or more, or auto.")
        strategy = config["strategy"]
        if strategy["num_nodes"] != nodes:
            raise UserError(
                f"The run is for {strategy['num_nodes']} nodes, the job asks for {nodes}. Set strategy.num_nodes and "
                "hydra.launcher.nodes to the same number, or strategy.num_nodes=auto."
            )
        tasks = _tasks(strategy, gpus)
        on_cpu = strategy["accelerator"] == "cpu"
        if gpus == "auto":
            gpus = 0 if on_cpu else tasks
        if not on_cpu and gpus != tasks:
            raise UserError(
                f"The run has {tasks} processes on each node (strategy.devices), the job asks for {gpus} GPUs there. "
                f"Set hydra.launcher.gpus_per_node={tasks}, or strategy.devices={gpus}."
            )
        if strategy["strategy"] == "auto" and tasks * nodes > 1:
            raise UserError("Several processes need a strategy. Set strategy=ddp, strategy=fsdp or a deepspeed one.")
        seconds = limit_seconds(settings["time"])
        return cls(nodes, tasks, gpus, seconds, _notice(config["preemption"]["save_before_limit"], seconds))


def _tasks(strategy: dict[str, Any], gpus: int | str) -> int:
    devices = strategy["devices"]
    if isinstance(devices, list):
        raise UserError(
            f"strategy.devices={devices} names devices, but Slurm gives each job its own. Set strategy.devices="
            f"{len(devices)}."
        )
    if devices != "auto":
        return devices
    if gpus in ("auto", 0):
        raise UserError(
            "strategy.devices is auto, and nothing says how many devices a node has. Set strategy.devices or "
            "hydra.launcher.gpus_per_node to a number."
        )
    return gpus


def _notice(before: float | None, seconds: int) -> int | None:
    if before is None:
        return None
    if before * 2 > seconds:
        raise UserError(
            f"The job's limit of {seconds / 60:g} minutes leaves a run that saves itself {before:g} seconds before it "
            "little time to train. Raise hydra.launcher.time, or lower preemption.save_before_limit."
        )
    # Slurm sends it up to a minute early, which in a short job is too much; the run's own clock is exact.
    return max(1, math.ceil(before)) if seconds >= SHORTEST_WITH_NOTICE else None


def limit_seconds(written: Any) -> int:
    """Slurm's forms of a time limit: minutes, hours:minutes:seconds, days-hours and so on. Raises UserError."""
    match = TIME.fullmatch(str(written))
    if match is None:
        raise UserError(
            f"hydra.launcher.time is {written}. Give minutes, hours:minutes:seconds or days-hours, in quotes: "
            "hydra.launcher.time='\"12:00:00\"'."
        )
    days, hours, minutes, seconds, *short = (int(part) if part else 0 for part in match.groups())
    if match[1] is None:
        first, second, third = short
        # Slurm reads 90 as minutes, 1:30 as minutes and seconds.
        given = sum(part is not None for part in match.groups()[4:])
        hours, minutes, seconds = (first, second, third) if given == 3 else (0, first, second)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not total:
        raise UserError(f"hydra.launcher.time is {written}; give more than nothing.")
    return total
