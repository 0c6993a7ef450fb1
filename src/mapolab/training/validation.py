"""Held-out pairs during training: the objective's figures on them, always with the same noise, in validation.csv."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import TypedDict

from mapolab.data.datamodule import PairDataModule
from mapolab.data.order import MicroStep
from mapolab.errors import UserError
from mapolab.files import write_json
from mapolab.reading import read_object
from mapolab.runs import RunFolder
from mapolab.training.metrics import MetricsFile
from mapolab.training.resume import CheckpointFolder

# Far beyond any run's samples: their noise is that of no training sample.
BEYOND = 1 << 48
HIGHER_IS_BETTER = ("implicit_accuracy", "margin")


class Best(TypedDict):
    """best.json: the step of the best checkpoint, and its figure in the column of validation.csv."""

    step: int
    value: float
    column: str


class Validation(Callback):
    """Before the first step, every `every` optimizer steps and after the last, a row of means over `pairs` pairs.

    The weights are those being trained, not their average. datamodule: of the held-out data; all ranks share the pairs,
    rounded down to whole forward passes. keep_best: the column by which a checkpoint is the best one; None: none is.
    """

    def __init__(self, folder: Path, datamodule: PairDataModule, every: int, pairs: int, keep_best: str | None):
        self.file = MetricsFile(folder / "validation.csv")
        self.best_file = folder / "best.json"
        self.checkpoints = CheckpointFolder(folder / "checkpoints")
        self.identity = RunFolder(folder).identity
        self.datamodule, self.every, self.pairs, self.keep_best = datamodule, every, pairs, keep_best
        self.best: dict[str, Any] | None = None  # step and value; the same on all ranks
        self.is_new_best = False

    @property
    def best_step(self) -> int | None:
        """Optimizer steps of the best checkpoint so far."""
        return self.best["step"] if self.best else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.datamodule.trainer = trainer
        self.datamodule.setup("fit")
        fix = "Remove it, and the best checkpoint is found anew."
        saved = read_object(self.best_file, Best, fix) if self.best_file.exists() else None
        ours = saved and saved.get("run", self.identity) == self.identity
        self.best = saved if ours and self.checkpoints.at(saved["step"]).exists() else None
        if trainer.is_global_zero:
            self.file.cut(trainer.global_step + 1)
        if trainer.global_step == 0:
            self._validate(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.is_new_best = False
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._validate(trainer)

    def note_best(self) -> None:
        """Remember the best checkpoint, once it is written; rank 0."""
        write_json(self.best_file, {**self.best, "column": self.keep_best, "run": self.identity})

    def _validate(self, trainer: Trainer) -> None:
        means = self._means(trainer)
        step = trainer.global_step
        if trainer.is_global_zero:
            self.file.append({"step": step, **means}, columns=["step", *means])
            self.file.flush()
        if self.keep_best is None:
            return
        if self.keep_best not in means:
            raise UserError(f"trainer.keep_best={self.keep_best} is no column of validation.csv: {', '.join(means)}.")
        value, sign = means[self.keep_best], 1 if self.keep_best in HIGHER_IS_BETTER else -1
        self.is_new_best = step > 0 and (self.best is None or sign * value > sign * self.best["value"])
        if self.is_new_best:
            self.best = {"step": step, "value": value}

    def _means(self, trainer: Trainer) -> dict[str, float]:
        size, world = self.datamodule.settings.batch_size, trainer.world_size
        rows = len(self.datamodule.dataset.order.rows)
        passes = min(self.pairs, rows) // (size * world)
        if not passes:
            raise UserError(
                f"{min(self.pairs, rows)} validation pairs are fewer than one forward pass of all processes, "
                f"{size * world}. Raise trainer.validation_pairs, or give more held-out data."
            )
        begin = BEYOND // rows * rows  # where an epoch begins, so that each row comes once
        sums: dict[str, Any] = {}
        for index in range(passes):
            first = begin + (index * world + trainer.global_rank) * size
            figures = trainer.strategy.validation_step(self._batch(first, size, trainer), index)
            sums = {name: sums.get(name, 0) + value / passes for name, value in figures.items()}
        values = trainer.strategy.reduce(torch.stack(list(sums.values())), reduce_op="mean").tolist()
        return dict(zip(sums, values, strict=True))

    def _batch(self, first: int, size: int, trainer: Trainer) -> dict[str, Any]:
        positions = list(range(first, first + size))
        batch = self.datamodule.dataset.__getitems__(MicroStep(positions, positions[-1] + 1))
        return self.datamodule.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
