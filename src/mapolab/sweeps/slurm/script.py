"""The batch script, for people to read, keep and change; mapolab submits the same text."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mapolab.job_record import RECORD
from mapolab.sweeps.folder import Job, SweepFolder
from mapolab.sweeps.slurm.shape import Shape


def batch_script(folder: SweepFolder, jobs: Sequence[Job], shape: Shape, settings: dict[str, Any]) -> str:
    """One job, or an array with a task for each. All paths are absolute, so it can be submitted from anywhere."""
    parts = [_head(folder, jobs), *_options(folder, jobs, shape, settings), ""]
    parts += [f"cd {shlex.quote(str(Path.cwd()))}", *settings["setup"]]
    if settings["cpus_per_task"]:
        # srun does not take it over from sbatch by itself.
        parts.append(f"export SRUN_CPUS_PER_TASK={settings['cpus_per_task']}")
    parts += ["", *_arguments(jobs)]
    record = folder.path.absolute() / "jobs" / f"{_task(jobs)}.json"
    parts.append(f'export {RECORD}="{record}"')
    parts += [
        "",
        "# Signals that come while Python starts would kill it; held back, they wait until mapolab listens.",
        'hold="env --block-signal=USR1,USR2,TERM"',
        "$hold true 2>/dev/null || hold=  # coreutils before 8.31",
        "# exec, so that signals to the job reach the run. With one process gone the others cannot go on.",
        " ".join(["exec srun --kill-on-bad-exit=1 $hold", *_words(settings["wrap"]), _program(), '"${arguments[@]}"']),
    ]
    return "\n".join(parts) + "\n"


def _head(folder: SweepFolder, jobs: Sequence[Job]) -> str:
    what = "one run" if len(jobs) == 1 else f"{len(jobs)} runs"
    return (
        "#!/bin/bash\n"
        f"# {what} of mapolab. Submit with sbatch; submitted again it continues what is not finished.\n"
        f"# mapolab status {shlex.quote(str(folder.path.absolute()))}"
    )


def _options(folder: SweepFolder, jobs: Sequence[Job], shape: Shape, settings: dict[str, Any]) -> Iterable[str]:
    log = "%a" if len(jobs) > 1 else str(jobs[0].number)
    options: dict[str, Any] = {
        "job-name": folder.path.name,
        "array": _array(jobs, settings["parallel"]),
        "output": folder.path.absolute() / "logs" / f"{log}.log",
        "open-mode": "append",  # a requeued job goes on in the same log
        "partition": settings["partition"],
        "account": settings["account"],
        "qos": settings["qos"],
        "constraint": settings["constraint"],
        "nodes": shape.nodes,
        "ntasks-per-node": shape.tasks_per_node,
        "gpus-per-node": shape.gpus_per_node or None,
        "cpus-per-task": settings["cpus_per_task"],
        "mem": settings["memory"],
        "time": settings["time"],
        "signal": f"USR1@{shape.notice}" if shape.notice else None,
    }
    for name, value in options.items():
        if value is not None:
            yield f"#SBATCH --{name}={value}"
    yield "#SBATCH --requeue"
    yield from (f"#SBATCH {option}" for option in settings["extra"])


def _array(jobs: Sequence[Job], parallel: int | None) -> str | None:
    if len(jobs) == 1:
        return None
    numbers = ",".join(str(job.number) for job in jobs)
    return f"{numbers}%{parallel}" if parallel else numbers


def _task(jobs: Sequence[Job]) -> str:
    return "${SLURM_ARRAY_TASK_ID}" if len(jobs) > 1 else str(jobs[0].number)


def _arguments(jobs: Sequence[Job]) -> Iterable[str]:
    if len(jobs) == 1:
        yield f"arguments=({shlex.join(jobs[0].arguments)})"
        return
    yield 'case "$SLURM_ARRAY_TASK_ID" in'
    for job in jobs:
        yield f"  {job.number}) arguments=({shlex.join(job.arguments)}) ;;"
    yield "esac"


def _words(wrap: str | None) -> list[str]:
    return [wrap] if wrap else []


def _program() -> str:
    return f"{shlex.quote(sys.executable)} -m mapolab"
