"""metrics.csv and the loggers: one row for each optimizer step, from the first one on."""

import csv
import io
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mapolab.errors import UserError
from mapolab.files import errors_of, fsync_folder, write_text
from mapolab.reading import read_cells, read_numbers
from mapolab.run_files import RUN_FIX

CURVES = (
    "loss",
    "error_chosen",
    "error_rejected",
    "reference_error_chosen",
    "reference_error_rejected",
    "margin",
    "implicit_accuracy",
)
TIMINGS = ("samples_per_second", "peak_memory_gib")


class MetricsFile:
    """A CSV file that grows by a row at a time. Rows reach the operating system at once and the disk at checkpoints."""

    def __init__(self, path: Path):
        self.path = path
        self.columns: list[str] = []
        self._opened: TextIO | None = None

    def rows(self) -> list[dict[str, str]]:
        """All whole rows; a row that a kill cut short is left out."""
        if not self.path.exists():
            return []
        read_numbers(self.path, RUN_FIX, unfinished=True)
        header, rows, _ = read_cells(self.path, RUN_FIX, unfinished=True)
        return [dict(zip(header, row, strict=True)) for row in rows]

    def cut(self, step: int, needed: tuple[str, ...] = ()) -> None:
        """Remove the rows from `step` on: those of steps that a resumed run does again.

        Raises UserError for a file that lacks one of the `needed` columns, or a number in one.
        """
        self.close()
        rows = self.rows()
        if lacking := [name for name in needed for row in rows if not row.get(name)]:
            raise UserError(f"{self.path} has not in every row a number under {lacking[0]}. {RUN_FIX}")
        kept = [row for row in rows if int(row["step"]) < step]
        if not kept:
            self.path.unlink(missing_ok=True)
            return
        self.columns = list(kept[0])
        write_text(self.path, _csv_text(self.columns, kept, header=True))

    def append(self, row: dict[str, Any], columns: list[str] | None = None) -> None:
        """Add a row. The first one fixes the columns: those given, or those of training, where what a method has no
        value for is an empty column."""
        is_new = not self.columns
        if is_new and columns is not None:
            self.columns = columns
        elif is_new:
            first, last = ("step", "consumed_samples", *CURVES), ("gradient_norm", "learning_rate", *TIMINGS)
            own = [name for name in row if name not in (*first, *last)]  # loss terms, and what else a method logs
            self.columns = [*first, *own, *last]
        if self._opened is None:
            # Kept open for the run: opening and closing takes longer than writing.
            self._opened = open(self.path, "a", encoding="utf-8", newline="", opener=_no_link)  # noqa: SIM115
        with errors_of(self.path):
            self._opened.write(_csv_text(self.columns, [row], header=is_new))
            self._opened.flush()

    def close(self) -> None:
        """Let go of the file until the next row."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def flush(self) -> None:
        """Bring all rows to the disk."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
            fsync_folder(self.path.parent)


def _no_link(path: str, flags: int) -> int:
    """For `open`: what lies elsewhere is not appended to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _csv_text(columns: list[str], rows: list[dict[str, Any]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class StepMetrics(Callback):
    """Writes a row at each optimizer step: to the file always, to Lightning's loggers every `log_every` steps.

    latest: the last row, for the progress display. Quantities are means over the whole global batch.
    """

    def __init__(self, file: MetricsFile | None, log_every: int):
        self.file, self.log_every = file, log_every
        self.latest: dict[str, float] = {}
        self.clock = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.file is not None:
            self.file.cut(trainer.global_step, ("consumed_samples", *TIMINGS))
        self.clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        means = pl_module.record.means()
        # One vector, so that ranks meet once and the device is read once.
        values = torch.stack([value.to(pl_module.device) for value in means.values()])
        values = trainer.strategy.reduce(values, reduce_op="mean").tolist()
        step, samples = trainer.global_step - 1, trainer.datamodule.samples_per_step
        now = time.perf_counter()
        self.latest = {
            "step": step,
            "consumed_samples": trainer.global_step * samples,
            **dict(zip(means, values, strict=True)),
            "gradient_norm": pl_module.record.gradient_norm.item(),
            "learning_rate": pl_module.record.learning_rate,
            "samples_per_second": samples / (now - self.clock),
            "peak_memory_gib": peak_memory_gib(pl_module.device),
        }
        self.clock = now
        self._write(trainer, step)

    def _write(self, trainer: Trainer, step: int) -> None:
        if self.file is not None:
            self.file.append(self.latest)
        if step % self.log_every == 0:
            for logger in trainer.loggers:
                logger.log_metrics({key: value for key, value in self.latest.items() if key != "step"}, step=step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.file is not None:
            self.file.close()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # A checkpoint must not reach the disk before the rows of its steps: those are never written again.
        if self.file is not None:
            self.file.flush()


def peak_memory_gib(device: torch.device) -> float:
    """The most memory in use so far, in GiB: on the GPU what torch allocated, else the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def summary(rows: list[dict[str, str]]) -> dict[str, float | int]:
    """The manifest's figures from the rows of metrics.csv.

    Medians, so that one hiccup does not count; wall_seconds is the time of all steps, over restarts, without start-up.
    """
    if not rows:
        return {"steps": 0, "wall_seconds": 0.0}
    samples_per_step = int(rows[0]["consumed_samples"])
    seconds = [samples_per_step / float(row["samples_per_second"]) for row in rows]
    return {
        "steps": len(rows),
        "wall_seconds": sum(seconds),
        "samples_per_second": samples_per_step / statistics.median(seconds),
        "step_time_seconds": statistics.median(seconds),
        "peak_memory_gib": max(float(row["peak_memory_gib"]) for row in rows),
    }
