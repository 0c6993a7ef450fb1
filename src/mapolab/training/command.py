"""`mapolab train`, from its first instant: signals are heard and answered while the libraries still load."""

import sys
from pathlib import Path
from typing import Any

from mapolab.config.environment import rank_from_environment
from mapolab.config.identity import run_folder
from mapolab.errors import Interrupted
from mapolab.runs import RunFolder
from mapolab.training.requeue import Requeue
from mapolab.training.stopping import StopRequest


def train(config: dict[str, Any]) -> Path:
    """Train, or continue, or find finished, the run of `config`; in a Slurm job, requeue it when it is preempted.

    Raises as `training.run.train`.
    """
    folder = RunFolder(run_folder(config))
    first = rank_from_environment() == 0
    stop = StopRequest()
    with stop.listening():
        requeue = None
        try:
            requeue = Requeue.from_config(config, folder) if first else None
            if requeue:
                stop.deadline = requeue.deadline(config["preemption"]["save_before_limit"])
            from mapolab.training.run import train as run  # seconds of imports

            path = run(config, stop, requeue)
        except Interrupted:
            # Before the first step nothing has asked yet.
            if requeue and not stop.waits:
                stop.saving = True
                requeue.ask(folder.last_saved_step(), stop.reason)
            raise
        finally:
            sys.stdout.flush()
    if first and config["evaluation"].get("after_training"):
        from mapolab.evaluation.evaluate import evaluate

        evaluate({"run": str(path)})
    return path
