"""What a person sees while a run trains: a bar in a terminal, some lines elsewhere."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mapolab.texts import say, visible
from mapolab.training.metrics import StepMetrics

LINES_PER_RUN = 10
UNITS = {
    "loss": "loss {:.4f}",
    "implicit_accuracy": "accuracy {:.2f}",
    "reward": "reward {:.3f}",
    "samples_per_second": "{:.1f} samples/s",
}


def describe(row: dict[str, float]) -> str:
    """`loss 0.0312  accuracy 0.75  12.1 samples/s`; what a method has not is left out."""
    return "  ".join(text.format(row[name]) for name, text in UNITS.items() if name in row)


class ProgressBar(Callback):
    """A rich bar: steps, loss, accuracy, samples a second, time left."""

    def __init__(self, metrics: StepMetrics, label: str):
        self.metrics, self.label = metrics, visible(label)
        name, figures = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[figures]}")
        self.bar = Progress(name, BarColumn(), MofNCompleteColumn(), figures, TimeRemainingColumn())
        self.task: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.start()
        self.task = self.bar.add_task(self.label, total=trainer.max_steps, completed=trainer.global_step, figures="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.bar.update(self.task, completed=trainer.global_step, figures=describe(self.metrics.latest))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.bar.stop()


class ProgressLines(Callback):
    """About ten lines a run, for log files."""

    def __init__(self, metrics: StepMetrics, label: str, log_every: int):
        self.metrics, self.label, self.log_every = metrics, label, log_every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step, total = trainer.global_step, trainer.max_steps
        if step in (1, total) or step % max(self.log_every, total // LINES_PER_RUN) == 0:
            say(f"{self.label}  step {step}/{total}  {describe(self.metrics.latest)}")


def progress_callbacks(kind: str, metrics: StepMetrics, label: str, log_every: int) -> list[Callback]:
    """The display that `trainer.progress` asks for: auto (a bar in a terminal), plain or off."""
    if kind == "off":
        return []
    if kind == "auto" and sys.stdout.isatty():
        return [ProgressBar(metrics, label)]
    return [ProgressLines(metrics, label, log_every)]
