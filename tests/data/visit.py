"""A program of its own: streams a data set through the real trainer, notes the samples it sees, and stops in the
middle.

python visit.py <folder> <ranks> <workers> <pairs a rank> <steps to stop after> <checkpoint to go on from, or ->
"""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mapolab.data.datamodule import LoaderSettings, PairDataModule
from mapolab.data.draw import Draw
from mapolab.data.order import Selection
from mapolab.data.sources.open import open_source
from mapolab.models.sdxl import SDXL
from mapolab.training.checkpoint import FolderCheckpointIO

STEPS, ACCUMULATION = 24, 2


class Nothing(LightningModule):
    """Learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.unet(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint) -> None:
        checkpoint["weights"] = {"unet_config": {}}


class Visitor(Callback):
    """Notes each rank's positions and captions, a line a forward pass; saves and ends after some steps."""

    def __init__(self, folder: Path, stop: int):
        self.folder, self.stop = folder, stop

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        with open(self.folder / f"rank{trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps([batch_idx, batch["positions"], batch["captions"]]) + "\n")
        if trainer.global_step == self.stop and (batch_idx + 1) % ACCUMULATION == 0:
            trainer.save_checkpoint(self.folder / f"step{self.stop}")
            trainer.should_stop = True
            trainer.fit_loop.epoch_loop.max_steps = self.stop


def main() -> None:
    folder, ranks, workers, batch_size, stop, checkpoint = sys.argv[1:]
    source = open_source(str(Path(folder) / "pairs.parquet"), None, None, Path(folder), 1)
    settings = LoaderSettings(int(batch_size), 16, window=8, num_workers=int(workers))
    datamodule = PairDataModule(source, SDXL(""), Selection(), Draw(3), settings, Path(folder))
    trainer = Trainer(
        accelerator="cpu", devices=int(ranks), strategy="ddp" if int(ranks) > 1 else "auto", max_steps=STEPS,
        accumulate_grad_batches=ACCUMULATION, callbacks=[Visitor(Path(folder), int(stop))], logger=False,
        enable_checkpointing=False, plugins=[FolderCheckpointIO()], use_distributed_sampler=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Nothing(), datamodule, ckpt_path=None if checkpoint == "-" else checkpoint)


if __name__ == "__main__":
    main()
