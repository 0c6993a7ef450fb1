"""One phase of a round in a process of its own: `python -m mapolab.iterations.phase <phase> <config.json>`.

So the next phase finds all of the machine's memory free, and a phase that starts further processes starts its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from mapolab.config.environment import rank_from_environment
from mapolab.errors import Interrupted, RunError, UserError, disk_fault
from mapolab.files import read_json, write_json
from mapolab.import_noise import silence_imports
from mapolab.job_record import note_end
from mapolab.training.stopping import hold_signals


def draw(config: dict[str, Any]) -> None:
    """The pairs that the round's starting model gives."""
    from mapolab.evaluation.models import base_of
    from mapolab.evaluation.scorers.registry import check_scorers
    from mapolab.pairs.command import make_pairs

    if config["evaluation"]:
        check_scorers(config["evaluation"])  # else it would be found after the round's training
    make_pairs(config["pairs"], [base_of(config["run"], Path(config["pairs"]["output_root"]))])


def train(config: dict[str, Any]) -> None:
    """The round's run."""
    from mapolab.training.command import train as run

    run(config)


def export(config: dict[str, Any]) -> None:
    """The run's model as a pipeline, adapters merged into it."""
    from mapolab.export.command import export as write

    write(config)


def evaluate(config: dict[str, Any]) -> None:
    """Draw and score with the run; evaluation.json has the means: `trained`, and of the first round also `start`."""
    from mapolab.evaluation.evaluate import evaluate as judge
    from mapolab.evaluation.scores_table import read_scores

    folders = judge(config["evaluation"])
    if rank_from_environment() == 0:
        names = ("start", "trained")[-len(folders) :]
        means = {name: read_scores(folder).means() for name, folder in zip(names, folders, strict=True)}
        write_json(Path(config["to"]) / "evaluation.json", means)


WORK = {"draw": draw, "train": train, "export": export, "evaluate": evaluate}


def main(arguments: list[str]) -> int:
    """Do the work and note how it ended; returns the exit code."""
    phase, file = arguments
    silence_imports()
    if phase == "train":
        hold_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        WORK[phase](read_json(file))
    except (UserError, RunError, Interrupted) as error:
        return _end(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if (fault := disk_fault(error)) is None:
            raise
        return _end(fault)
    return 0


def _end(error: UserError | RunError | Interrupted) -> int:
    """Note it for the command, which tells it; on a full disk tell it here."""
    if not note_end(error.exit_code, str(error)):
        print(f"mapolab: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def _end_with_parent() -> None:
    """Stop as by SIGTERM when the command that started us dies, whatever killed it: our end of its pipe tells."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
