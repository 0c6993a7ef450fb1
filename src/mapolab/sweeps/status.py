"""`mapolab status <sweep folder>`: a live table of the jobs, read from their files."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mapolab.errors import UserError
from mapolab.sweeps.folder import Job, SweepFolder
from mapolab.sweeps.state import JobState, job_state
from mapolab.texts import rich_text, say

BETWEEN_LOOKS = 2.0  # seconds
COLOURS = {"running": "cyan", "finished": "green", "failed": "red", "unreadable": "red"}
COLOURS |= {"preempted": "yellow", "stopped": "yellow"}
USAGE = """\
mapolab status <sweep folder> [<another>...] [--once]

A table of a sweep's jobs: state, step, loss, samples a second, time left, last checkpoint. In a terminal it follows the
jobs until none of them runs or waits (leave with Ctrl-C); --once, and anywhere else, shows them once. A folder of runs,
or a run's own folder, will do too. Reads files only, so it works on any machine that sees the folder.
"""


def status(arguments: Sequence[str]) -> None:
    """Show the table. Raises UserError for a folder that holds neither a sweep nor runs."""
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(USAGE, end="")
        return
    unknown = [item for item in arguments if item.startswith("-") and item != "--once"]
    if unknown:
        raise UserError(f"status does not know {unknown[0]}. It takes folders and --once.")
    folders = [Path(item) for item in arguments if item != "--once"]
    if not folders:
        raise UserError("Give the folder of a sweep: mapolab status outputs/sweeps/<name>.")
    console = Console()
    if "--once" in arguments or not console.is_terminal:
        states = _look(folders)
        (console if console.is_terminal else Console(file=sys.stdout, width=200)).print(_shown(states))
        for line in _commands(states):  # whole, to be copied
            say(line)
        return
    try:
        with Live(console=console, screen=False, auto_refresh=False) as live:
            while True:
                states = _look(folders)
                live.update(Group(_shown(states), *map(rich_text, _commands(states))), refresh=True)
                if not {"running", "waiting", "preempted"} & {state.state for state in states}:
                    return
                time.sleep(BETWEEN_LOOKS)
    except KeyboardInterrupt:
        pass


def _look(folders: Sequence[Path]) -> list[JobState]:
    return [state for folder in folders for state in _states(folder)]


def _states(folder: Path) -> list[JobState]:
    if (folder / "jobs").is_dir():
        sweep = SweepFolder(folder)
        return [job_state(job, sweep.record(job.number)) for job in sweep.jobs()]
    try:
        alone = (folder / "config.yaml").is_file()
        runs = [folder] if alone else sorted(file.parent for file in folder.glob("*/config.yaml"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be looked at: {error}. Give the folder of a sweep or of runs.") from None
    if not runs:
        raise UserError(
            f"{folder} holds no sweep and no run. Give a folder that `mapolab train -m` named, such as "
            "outputs/sweeps/<name>."
        )
    return [job_state(Job(number, ["train"], run), {}) for number, run in enumerate(runs)]


def _shown(states: Sequence[JobState]) -> Group:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("job", "run", "state", "step", "loss", "samples/s", "time left", "last checkpoint", ""):
        table.add_column(name, justify="right" if name in ("job", "step", "loss", "samples/s", "time left") else "left")
    shared = set.intersection(*(set(item.job.overrides) for item in states)) if len(states) > 1 else set()
    for item in states:
        table.add_row(*_row(item, shared))
    counts = Counter(item.state for item in states)
    total = Text(", ".join(f"{count} {name}" for name, count in counts.items()))
    return Group(table, total)


def _row(item: JobState, shared: set[str]) -> list[Text]:
    """shared: overrides that all jobs have, and that tell nothing of this one."""
    step = f"{item.step}/{item.steps}" if item.steps else ""
    saved = f"step {item.saved[0]}, {duration(item.saved[1])} ago" if item.saved else ""
    cells = [
        str(item.job.number),
        " ".join(given for given in item.job.overrides if given not in shared) or item.job.run.name,
        item.state,
        step,
        "" if item.loss is None else f"{item.loss:.4f}",
        "" if item.samples_per_second is None else f"{item.samples_per_second:.1f}",
        "" if item.seconds_left is None else duration(item.seconds_left),
        saved,
        item.note if len(item.note) < 100 else item.note[:97] + "...",
    ]
    return [rich_text(cell, COLOURS.get(item.state, "") if at == 2 else "") for at, cell in enumerate(cells)]


def _commands(states: Sequence[JobState]) -> list[str]:
    """How to continue what does not continue by itself."""
    ended = [item for item in states if item.state in ("failed", "stopped") and len(item.job.arguments) > 1]
    if not ended:
        return []
    lines = [f"  job {item.job.number}: {item.job.command}" for item in ended]
    return ["To continue (the sweep's own command again does it for all):", *lines]


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for limit, divisor, unit, digits in ((90, 1, "s", 0), (5400, 60, "min", 0), (172800, 3600, "h", 1)):
        if seconds < limit:
            return f"{seconds / divisor:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"
