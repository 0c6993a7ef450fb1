"""`mapolab train`, from its first instant: signals are heard and answered while the libraries still load."""

from pathlib import Path
from typing import Any

from mapolab.config.environment import rank_from_environment
from mapolab.config.identity import run_folder
from mapolab.errors import Interrupted
from mapolab.runs import RunFolder
from mapolab.training.requeue import Requeue
from mapolab.training.stopping import StopRequest, hold_signals


def train(config: dict[str, Any]) -> Path:
    """Train, or continue, or find finished, the run of `config`; in a Slurm job, requeue it when it is preempted.

    Then evaluate it, if the config says so. Raises as `training.run.train`.
    """
    folder = RunFolder(run_folder(config))
    requeue = Requeue.from_config(config, folder) if rank_from_environment() == 0 else None
    before_limit = config["preemption"]["save_before_limit"]
    stop = StopRequest(requeue.deadline(before_limit) if requeue else None)
    try:
        with stop.listening():
            from mapolab.training.run import train as run  # seconds of imports

            path = run(config, stop, requeue)
    except Interrupted:
        if requeue and not stop.waits:  # before the first step nothing has asked yet
            hold_signals()
            requeue.ask(folder.last_saved_step(), stop.reason)
        raise
    if requeue and config["evaluation"].get("after_training"):
        _evaluate(path, config, requeue)
    return path


def _evaluate(path: Path, config: dict[str, Any], requeue: Requeue) -> None:
    """Evaluate a finished run, unless that is done. What is drawn stays, so a preempted job continues here too."""
    from mapolab.evaluation.evaluate import evaluate

    stop, output_root = StopRequest(), config["output_root"]
    # A URL is to be named by the command, as it was.
    given = {"models": [str(path)], "output_root": output_root, "prompts": config["evaluation"]["prompts"]}
    try:
        with stop.listening():
            evaluate(given)
    except Interrupted:
        hold_signals()
        drawn = sum(1 for _ in Path(output_root).glob(".store/*/*.png"))
        requeue.ask(f"evaluation, {drawn} pictures", stop.reason)
        raise
