"""``mapolab iterate``: rounds of drawing, ranking and training, each from the model of the one before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mapolab.config.environment import nodes_from_environment, rank_from_environment
from mapolab.config.environment_values import as_saved, as_typed
from mapolab.config.identity import as_earlier
from mapolab.config.printing import print_tree
from mapolab.errors import UserError
from mapolab.iterations.process import PhaseProcess
from mapolab.iterations.rounds import Round, iteration_folder, iteration_identity
from mapolab.iterations.summary import print_summary, rows_of, write_summary
from mapolab.output import ROUNDS
from mapolab.pairs.folder import ResultFolder
from mapolab.runs import RunFolder, check_earlier


def iterate(config: dict[str, Any]) -> Path:
    """Do `rounds` rounds, or what is missing of them; returns the folder, with round-<n>/{pairs,run,model}.

    Every phase continues where it was killed, and gives what it would have given. Raises what a phase raises, and
    Interrupted after a signal; the same call continues.
    """
    _check_alone()
    folder = ResultFolder(iteration_folder(config), ROUNDS)
    settings = iteration_identity(as_saved(config))
    rounds = [Round(config, folder.path, number) for number in range(1, config["rounds"] + 1)]
    with folder.locked():
        folder.check(settings)
        for one in rounds:
            one.check_places()
        _check_earlier(config, folder)
        if folder.is_finished() and folder.manifest()["rounds"] >= len(rounds):
            print(f"The {folder.manifest()['rounds']} rounds in {folder.path} are finished.", flush=True)
            print_summary(rows_of(rounds))
            return folder.path
        if config["trainer"]["progress"] != "off":
            print_tree(as_typed(config))
        print(f"Folder: {folder.path}", flush=True)
        folder.claim(settings)
        process = PhaseProcess()
        for one in rounds:
            _do(one, process, folder)
            write_summary(folder.path, rows_of(rounds[: one.number]))
        folder.finish(rounds=len(rounds), files=["iterations.csv", "summary.json"])
    print_summary(rows_of(rounds))
    print(f"Model: {rounds[-1].model}", flush=True)
    return folder.path


def _do(one: Round, process: PhaseProcess, folder: ResultFolder) -> None:
    for phase in one.phases():
        if not one.is_done(phase):
            folder.output.lock.check()
            print(f"Round {one.number}: {phase}", flush=True)
            process.run(phase, one.phase_config(phase), one.path, one.number)


def _check_earlier(config: dict[str, Any], folder: ResultFolder) -> None:
    """Raise UserError where the same command began rounds under an earlier version, which had other defaults."""
    earlier = ResultFolder(iteration_folder(as_earlier(config)), ROUNDS)
    if not folder.manifest() and earlier.path != folder.path:
        check_earlier(earlier.path, RunFolder(earlier.path / "round-1" / "run").config(), earlier.is_finished())


def _check_alone() -> None:
    """Raise UserError where several processes were started for this command."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1 or ("SLURM_STEP_ID" in os.environ and _slurm_tasks() > 1)
    if several or rank_from_environment() or nodes_from_environment() > 1:
        raise UserError(
            "`mapolab iterate` is one process on one machine, which starts others for each phase. Start it without "
            "torchrun, and with one task under srun; devices=... and strategy.devices=... say how many shall work."
        )


def _slurm_tasks() -> int:
    return int(os.environ.get("SLURM_NTASKS", 1))
