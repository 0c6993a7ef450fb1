"""When checkpoints are taken, and stopping on request."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mapolab.errors import RunError
from mapolab.output import Lock
from mapolab.training.requeue import Requeue
from mapolab.training.resume import CheckpointFolder
from mapolab.training.stopping import StopRequest
from mapolab.training.validation import Validation


class SaveAndStop(Checkpoint):
    """Saves every `every` optimizer steps and when asked to stop; keeps the newest `keep` checkpoints.

    Acts between optimizer steps only: there is no gradient in accumulation then, so nothing of a step can be lost or
    counted twice. Being a `Checkpoint`, it runs after all other callbacks, when EMA and metrics have seen the step.
    requeue, lock: on rank 0; lock: of the run's folder. validation: whose best checkpoint stays, too.
    """

    def __init__(
        self,
        checkpoints: CheckpointFolder,
        every: int,
        keep: int,
        stop: StopRequest,
        requeue: Requeue | None = None,
        validation: Validation | None = None,
        lock: Lock | None = None,
    ):
        self.checkpoints, self.every, self.keep, self.stop = checkpoints, every, keep, stop
        self.requeue, self.validation, self.lock = requeue, validation, lock
        self.saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step
        self.stop.wait_for_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stopping = self._is_stopping(trainer)
        self.stop.saving = stopping
        best = self.validation is not None and self.validation.is_new_best
        if stopping or best or trainer.global_step % self.every == 0:
            self._save(trainer)
        if best and trainer.is_global_zero:
            trainer.strategy.checkpoint_io.finish()
            self.validation.note_best()
        if stopping and trainer.global_step < trainer.max_steps:
            self._leave(trainer)
        self.stop.saving = False

    def leave_if_asked(self, trainer: Trainer) -> None:
        """Save and leave where a step is about to begin, if that is wanted; for work between steps that takes long.

        To be called by all ranks. Raises Interrupted.
        """
        if self._is_stopping(trainer):
            self.stop.saving = True
            self._save(trainer)
            self._leave(trainer)

    def _is_stopping(self, trainer: Trainer) -> bool:
        """Whether all ranks stop now: after the same step, also if the signal reached only one of them in time.

        Raises RunError on all ranks where another process may have the run's folder: nothing more is saved there.
        """
        lost = self.lock is not None and self.lock.is_lost()
        decide = trainer.strategy.reduce_boolean_decision
        stopping = decide(self.stop.wanted or lost, all=False)
        if stopping and decide(lost, all=False):
            if self.lock is not None:
                self.lock.check()
            raise RunError("The run's lock was lost; process 0 says more.")
        return stopping

    def _leave(self, trainer: Trainer) -> None:
        trainer.strategy.checkpoint_io.finish()
        trainer.strategy.barrier()
        if self.requeue is not None:
            self.requeue.ask(trainer.global_step, self.stop.reason)
        raise self.stop.interrupted()

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step == self.saved_step:
            return
        trainer.save_checkpoint(self.checkpoints.at(step))
        self.saved_step = step
        if trainer.is_global_zero:
            self.checkpoints.trim(self.keep, self.validation.best_step if self.validation else None)
