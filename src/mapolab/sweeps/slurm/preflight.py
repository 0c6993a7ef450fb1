"""What can be known to be wrong before a job waits in the queue: partition, limits, memory, a folder of this machine.

Each refusal names the fix. Where there is no Slurm to ask, as when a script is written elsewhere, nothing is asked.
"""

import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapolab.errors import UserError
from mapolab.sweeps.slurm.shape import Shape, limit_seconds

# File systems that exist on one machine only, in memory or on its own disks under the folder for temporary files.
IN_MEMORY = ("tmpfs", "ramfs", "overlay")
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run")


def check_cluster(shape: Shape, settings: dict[str, Any]) -> None:
    """The partition exists and its nodes can hold such a job. Raises UserError."""
    partitions = _partitions()
    if not partitions:
        return
    name = settings["partition"] or next((name for name, facts in partitions.items() if facts["default"]), None)
    if name is None:
        raise UserError(f"The cluster has no default partition. Set hydra.launcher.partition: {', '.join(partitions)}.")
    for wanted in name.split(","):
        if wanted not in partitions:
            raise UserError(
                f"There is no partition {wanted}. Set hydra.launcher.partition to one of {', '.join(partitions)}."
            )
    if "," in name:  # Slurm picks one of them
        return
    facts = partitions[name]
    if facts["limit"] is not None and shape.seconds > facts["limit"]:
        raise UserError(
            f"hydra.launcher.time={settings['time']} is above the limit of the partition {name}, "
            f"{facts['limit'] / 60:g} minutes. Lower it: the run continues in as many jobs as it needs."
        )
    if shape.nodes > facts["nodes"]:
        raise UserError(
            f"The job asks for {shape.nodes} nodes, the partition {name} has {facts['nodes']}. Lower "
            "hydra.launcher.nodes and strategy.num_nodes, or choose another partition."
        )
    if shape.gpus_per_node > facts["gpus"]:
        raise UserError(
            f"The job asks for {shape.gpus_per_node} GPUs on a node, those of the partition {name} have at most "
            f"{facts['gpus']}. Lower strategy.devices, use strategy.accelerator=cpu, or choose another partition."
        )
    cpus = shape.tasks_per_node * (settings["cpus_per_task"] or 1)
    if cpus > facts["cpus"]:
        raise UserError(
            f"The job asks for {cpus} CPUs on a node ({shape.tasks_per_node} processes x hydra.launcher.cpus_per_task "
            f"{settings['cpus_per_task']}), those of the partition {name} have at most {facts['cpus']}. Lower "
            "hydra.launcher.cpus_per_task."
        )


def check_visible(folder: Path) -> None:
    """The folder is on a file system that the nodes share with this machine, as far as can be told from here."""
    if _nodes_are_here():
        return
    path = folder.absolute().resolve()
    if any(path.is_relative_to(place) for place in TEMPORARY) or _file_system(path) in IN_MEMORY:
        raise UserError(
            f"{folder} lies on this machine only, so the nodes would not see it. Set output_root (or output_dir) to a "
            "folder that all nodes share."
        )


def check_memory(configs: Sequence[dict[str, Any]], accelerator: str | None) -> None:
    """`mapolab plan` for every kind of job: one that cannot fit fails here and not in the queue. Raises UserError."""
    if accelerator is None:
        return
    from mapolab.plan.command import make_plan

    asked = {"format": "table", "accelerator": accelerator, "peak_tflops": None, "memory_gib": None}
    asked |= {"efficiency": 0.4, "reserve_gib": 2.0, "rows": None}
    done = set()
    for config in configs:
        blocks = [_memory_kind(config[key]) for key in ("model", "objective", "data", "optimizer", "strategy")]
        kind = repr([*blocks, config["rollout"]])
        if config["task"] != "align" or kind in done:
            continue
        done.add(kind)
        plan = make_plan(config | asked)
        if not plan["fits"]:
            peak = plan["memory"]["peak_bytes"] / 2**30
            raise UserError(
                f"objective={config['objective']['name']} needs {peak:.1f} GiB on each device by `mapolab plan`, which "
                f"{accelerator} does not have. The largest batch that fits is {plan['memory']['largest_batch']} "
                "(data.batch_size); or set model.gradient_checkpointing=true, another optimizer or strategy."
            )


def _memory_kind(block: dict[str, Any]) -> dict[str, Any]:
    """A block without what changes no memory: rates and the like."""
    return {key: value for key, value in block.items() if not isinstance(value, float)}


def _partitions() -> dict[str, dict[str, Any]]:
    """name -> default, limit (seconds or None), nodes, and the most gpus and cpus of its nodes."""
    listed = _output("sinfo", "-h", "-o", "%P|%l|%D|%G|%c")
    found: dict[str, dict[str, Any]] = {}
    for line in (listed or "").splitlines():
        name, limit, nodes, gres, cpus = line.split("|")
        known = found.setdefault(
            name.rstrip("*"), {"default": name.endswith("*"), "limit": None, "nodes": 0, "gpus": 0, "cpus": 0}
        )
        known["limit"] = None if limit in ("infinite", "n/a") else limit_seconds(limit)
        known["nodes"] += int(nodes)
        known["gpus"] = max(known["gpus"], sum(int(count) for count in re.findall(r"gpu:(?:[^:,(]+:)?(\d+)", gres)))
        known["cpus"] = max(known["cpus"], int(cpus.rstrip("+")))
    return found


def _nodes_are_here() -> bool:
    """Whether all nodes of the cluster are this machine, so that there is nothing to share."""
    hosts = set(re.findall(r"NodeHostName=(\S+)", _output("scontrol", "show", "nodes") or ""))
    return hosts == {socket.gethostname()}


def _file_system(path: Path) -> str:
    """The type of the file system that a path is on, as the kernel names it; empty where it does not tell."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    matching = [(len(mount[1]), mount[2]) for mount in mounts if path.is_relative_to(mount[1])]
    return max(matching, default=(0, ""))[1]


def _output(*command: str) -> str | None:
    """None where the program is not there or does not answer."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
