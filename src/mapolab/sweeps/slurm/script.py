"""The batch script, for people to read, keep and change; mapolab submits the same text."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mapolab.errors import UserError
from mapolab.job_record import RECORD
from mapolab.sweeps.folder import Job, SweepFolder
from mapolab.sweeps.process import PYTHON
from mapolab.sweeps.slurm.shape import Shape
from mapolab.texts import odd_character

SIGNATURE = " of mapolab."  # in its second line


def batch_script(folder: SweepFolder, jobs: Sequence[Job], shape: Shape, settings: dict[str, Any]) -> str:
    """One job, or an array with a task for each. All paths are absolute, so it can be submitted from anywhere.

    Every value is quoted, but for `setup` and `wrap`, which are shell code. Raises UserError for what no quotes hold.
    """
    check_settings(settings)
    parts = [_head(folder, jobs), *_options(folder, jobs, shape, settings), ""]
    parts += [f"cd {shlex.quote(str(Path.cwd()))}", *(settings["setup"] or [])]
    if settings["cpus_per_task"]:
        # srun does not take it over from sbatch by itself.
        parts.append(f"export SRUN_CPUS_PER_TASK={settings['cpus_per_task']}")
    parts += ["", *_arguments(jobs)]
    parts.append(f"export {RECORD}={shlex.quote(f'{folder.path.absolute()}/jobs/')}{_task(jobs)}.json")
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
        f"# {what}{SIGNATURE} Submit with sbatch; submitted again it continues what is not finished.\n"
        f"# mapolab status {shlex.quote(_one_line('the folder of the sweep', folder.path.absolute()))}"
    )


def check_settings(settings: dict[str, Any]) -> None:
    """Raise UserError for settings of the launcher that are of a wrong type, or that would be more than one option."""
    for key in ("partition", "account", "qos", "constraint", "memory", "wrap", "script", "accelerator"):
        if settings.get(key) is not None:
            _one_line(f"hydra.launcher.{key}", settings[key])
    for key in ("setup", "extra"):
        lines = settings[key]
        if not isinstance(lines, list | None) or not all(isinstance(line, str) for line in lines or []):
            raise UserError(f"hydra.launcher.{key} is {lines}; give a list of lines, 'hydra.launcher.{key}=[\"...\"]'.")
    for option in settings["extra"] or []:
        if not _one_line("hydra.launcher.extra", option).startswith("-"):
            raise UserError(f"hydra.launcher.extra has {option}; give options of sbatch, such as --reservation=course.")
    for key in ("cpus_per_task", "parallel"):
        if settings[key] is not None and not (type(settings[key]) is int and settings[key] >= 1):
            raise UserError(f"hydra.launcher.{key} is {settings[key]}; give a number of 1 or more, or null.")


def _one_line(name: str, value: Any) -> str:
    """The text of a value that stands on one line of the script. Raises UserError for what ends a line, and for a
    backslash, which sbatch takes away even in quotes."""
    text = str(value)
    if isinstance(value, dict | list | bool):
        raise UserError(f"{name} is {value}; give a text.")
    if odd_character(text) or "\\" in text or len(text.splitlines()) > 1 or text.endswith(("\n", "\r")):
        raise UserError(f"{name} is {text!r}. sbatch takes no backslash, line end or control character; use others.")
    return text


def _options(folder: SweepFolder, jobs: Sequence[Job], shape: Shape, settings: dict[str, Any]) -> Iterable[str]:
    log = "%a" if len(jobs) > 1 else str(jobs[0].number)
    logs = str(folder.path.absolute() / "logs").replace("%", "%%")  # a lone % stands for the job's number and the like
    options: dict[str, Any] = {
        "job-name": folder.path.name,
        "array": _array(jobs, settings["parallel"]),
        "output": f"{logs}/{log}.log",
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
            yield f"#SBATCH --{name}={shlex.quote(_one_line(name, value))}"
    yield "#SBATCH --requeue"
    yield from (f"#SBATCH {option}" for option in settings["extra"] or [])


def _array(jobs: Sequence[Job], parallel: int | None) -> str | None:
    if len(jobs) == 1:
        return None
    numbers = ",".join(str(job.number) for job in jobs)
    return f"{numbers}%{parallel}" if parallel else numbers


def _task(jobs: Sequence[Job]) -> str:
    return '"$SLURM_ARRAY_TASK_ID"' if len(jobs) > 1 else str(jobs[0].number)


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
    return shlex.join([*PYTHON, "mapolab"])
