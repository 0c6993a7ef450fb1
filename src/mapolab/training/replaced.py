"""The broken rows that a run came across: listed in its folder, and too many of them end it."""

from pathlib import Path
from typing import Any

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer

from mapolab.data.records import Source
from mapolab.data.replacement import Replaced
from mapolab.errors import RunError, UserError
from mapolab.files import write_csv
from mapolab.reading import read_rows

# The share is of the rows seen so far, but of at least so many (or all there are): one early broken row is no
# catastrophe.
LEAST_SEEN = 1000


class BrokenRows(Callback):
    """Keeps `broken_rows.csv`: a line for each broken row, with the row that stood in for it.

    The first rank writes it; all are told of each other's rows, and so end together. most: the share of broken rows at
    which the run ends with a RunError. Files that could not be indexed count with the rows that they should have.
    """

    def __init__(self, file: Path, most: float, source: Source):
        self.file, self.most, self.rows = file, most, sum(source.block_sizes)
        self.files = source.broken_files
        self.lost = sum(item.rows for item in self.files)
        self.seen: dict[int, Replaced] = {}

    def check_files(self) -> None:
        """Raise RunError if the files that cannot be read hold too large a share of the data by themselves."""
        if self.lost > self.most * (self.rows + self.lost):
            names = ", ".join(f"{item.name}: {item.reason}" for item in self.files[:3])
            raise self._too_many(f"files with about {self.lost} of {self.rows + self.lost} rows are broken ({names})")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.file.exists():
            for found in self._read():
                self.seen[found.row] = found

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        new = [found for found in _of_all_ranks(trainer, batch["replaced"]) if found.row not in self.seen]
        if not new:
            return
        self.seen |= {found.row: found for found in new}
        if trainer.is_global_zero:
            self._write()
        rows_seen = (batch_idx + 1) * trainer.datamodule.samples_per_forward
        if len(self.seen) > self.most * max(rows_seen, min(LEAST_SEEN, self.rows)):
            raise self._too_many(f"{len(self.seen)} of the {rows_seen} rows seen so far are broken, see {self.file}")

    def _read(self) -> list[Replaced]:
        """Raises UserError for a file that `_write` did not write."""
        fix = "Remove it; what stands in it is found again where the run comes across it."
        found = []
        for values in read_rows(self.file, fix):
            try:
                whole = {name: int(values[name]) for name in ("position", "row", "replacement")}
                found.append(Replaced(**values | whole))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{self.file} is no list of broken rows ({error!r}). {fix}") from None
        return found

    def _write(self) -> None:
        rows = sorted(self.seen.values(), key=lambda found: found.row)
        write_csv(self.file, [Replaced._fields, *rows])

    def _too_many(self, what: str) -> RunError:
        return RunError(
            f"The run stops because {what}; data.max_broken_share allows {self.most:.1%}. Fetch or repair the data, or "
            "raise the share; the same command then continues the run."
        )


def _of_all_ranks(trainer: Trainer, replaced: list[Replaced]) -> list[Replaced]:
    if trainer.world_size == 1:
        return replaced
    if not trainer.strategy.reduce_boolean_decision(bool(replaced), all=False):
        return []
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, replaced)
    return [found for rank in gathered for found in rank]
