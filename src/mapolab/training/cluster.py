"""The parts of Lightning's cluster machinery that are replaced here, each with the reason."""

import os
import socket

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from mapolab.errors import RunError, UserError


def cluster_environment() -> list[ClusterEnvironment]:
    """For the Trainer's plugins: Slurm's environment in a Slurm step, else none.

    Lightning's own requeuing saves in the middle of a step, so it is off; `training.requeue` does it. Raises UserError
    where the processes of the job could not find each other: they would wait until the time limit.
    """
    if not SLURMEnvironment.detect():
        return []
    if int(os.environ["SLURM_NTASKS"]) > 1:
        _check_srun()
        _check_address(SLURMEnvironment(auto_requeue=False).main_address)
    return [SLURMEnvironment(auto_requeue=False)]


def _check_srun() -> None:
    if "SLURM_STEP_ID" not in os.environ:
        raise UserError(
            f"This job has {os.environ['SLURM_NTASKS']} tasks, but only one process was started. Put srun before the "
            "command in the batch script, or let mapolab write the script: mapolab train ... --sbatch job.sh."
        )


def _check_address(address: str) -> None:
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        raise UserError(
            f"The address of the job's first node, {address}, cannot be resolved ({error.strerror}), so its processes "
            "cannot meet. Set it in the batch script before srun: export MASTER_ADDR=<an address of that node>; with "
            "mapolab's scripts: hydra.launcher.setup."
        ) from None


class NoSignalHandlers(_SignalConnector):
    """In place of Lightning's, whose SIGTERM handler talks to the other ranks from wherever the signal found it."""

    def register_signal_handlers(self) -> None:
        """None: `training.stopping` owns the signals."""

    def teardown(self) -> None:
        """Nothing was registered."""


class SameStep(Callback):
    """All ranks must have found the same checkpoint: a file system may show its newest folder late on some nodes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1:
            return
        mine = trainer.global_step
        others = pl_module.all_gather(float(mine)).tolist()
        if len({*others}) > 1:
            steps = ", ".join(str(int(step)) for step in others)
            raise RunError(
                f"The processes found different checkpoints (after steps {steps}, by rank). The run's folder is not "
                "yet the same on all nodes; start again in a minute."
            )
