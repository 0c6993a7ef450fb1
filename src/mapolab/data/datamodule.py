"""The LightningDataModule: opens or makes the cache, makes the loader, and carries the whole state of the data."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from mapolab.data.buckets import BucketOrder
from mapolab.data.datasets import Batch, LatentPairs, PairDataset, PixelPairs
from mapolab.data.draw import Draw
from mapolab.data.order import READERS, GlobalOrder, MicroSteps, Order, Selection, WindowOrder
from mapolab.data.prepared.opened import PreparedCache
from mapolab.data.prepared.prepare import prepare
from mapolab.data.prepared.spec import CacheSpec
from mapolab.data.records import Source
from mapolab.data.workers import fork_server, ignore_stop_signals
from mapolab.errors import RunError, UserError
from mapolab.models.sdxl import SDXL


@dataclass(frozen=True)
class LoaderSettings:
    """The part of the config that shapes the batches.

    batch_size: pairs for one forward pass of one process. window: least rows that are shuffled together; None: all.
    cache: which prepared cache to train from, or None to read the images. weighted: losses have the rows' weights.
    fixed_forward: what is in a forward pass matters, not only what is in an optimizer step.
    """

    batch_size: int
    resolution: int
    window: int | None
    cache: CacheSpec | None = None
    num_workers: int = 0
    weighted: bool = False
    fixed_forward: bool = False


class PairDataModule(LightningDataModule):
    """Batches of preferences for exactly `max_steps` optimizer steps, from the position where the run stands.

    One Lightning epoch lasts the whole run; passes over the data are the business of `data.order`. So there is no epoch
    end at which Lightning would restart the loader or cut an accumulation short.
    """

    def __init__(
        self,
        source: Source,
        sdxl: SDXL,
        selection: Selection,
        draw: Draw,
        settings: LoaderSettings,
        cache_folder: Path,
    ):
        super().__init__()
        self.source, self.sdxl, self.selection, self.draw = source, sdxl, selection, draw
        self.settings, self.cache_folder = settings, cache_folder
        self.position = 0
        self.dataset: PairDataset | None = None

    @property
    def samples_per_forward(self) -> int:
        """Pairs in one forward pass, over all ranks."""
        return self.settings.batch_size * self.trainer.world_size

    @property
    def samples_per_step(self) -> int:
        """Pairs in one optimizer step, over all ranks and accumulated forward passes."""
        return self.samples_per_forward * self.trainer.accumulate_grad_batches

    def setup(self, stage: str) -> None:
        cache = self._cache(self.settings.cache) if self.settings.cache else None
        shared = self.source, self._order(cache), self.selection, self.draw, self.settings.weighted
        self.dataset = LatentPairs(*shared, cache) if cache else PixelPairs(*shared, self.settings.resolution)

    def train_dataloader(self) -> DataLoader:
        trainer, settings = self.trainer, self.settings
        accumulation = trainer.accumulate_grad_batches
        micro_steps = MicroSteps(
            self.dataset.order,
            start=self.position,
            done=trainer.global_step * accumulation,
            total=trainer.max_steps * accumulation,
            batch_size=settings.batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return DataLoader(
            self.dataset,
            batch_sampler=micro_steps,
            num_workers=settings.num_workers,
            collate_fn=_as_it_is,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            worker_init_fn=ignore_stop_signals,
            multiprocessing_context=fork_server() if settings.num_workers and trainer.world_size > 1 else None,
        )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Note where the data stands. Called for a batch when its forward pass begins, not when it is fetched ahead."""
        if "failure" in batch:
            raise RunError(batch["failure"])
        self.position = batch["next_position"]
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors. Lightning's own way looks into every list and number of the batch, which costs more."""
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data. Checkpoints are taken between steps, so the position is exact."""
        return self._layout() | {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint stands. Raises UserError if data or batches are not as they were."""
        check_layout(state_dict, self._layout())
        self.position = state_dict["position"]

    def _layout(self) -> dict[str, Any]:
        layout = {"data_fingerprint": self.source.fingerprint, "samples_per_step": self.samples_per_step}
        return layout | ({"samples_per_forward": self.samples_per_forward} if self.settings.fixed_forward else {})

    def _cache(self, spec: CacheSpec) -> PreparedCache:
        """The prepared cache; under a trainer all ranks make it together where it is not there."""
        folder = self.cache_folder / spec.key
        if self.trainer is not None:
            self._make(spec, folder)
        cache = PreparedCache.open(folder, spec)
        self._check_labels(cache)
        return cache

    def _check_labels(self, cache: PreparedCache) -> None:
        """Raise UserError if the data's labels have changed since the cache was made.

        The fingerprint of parquet files is one of their sizes and footers, which other labels may leave as they are.
        Files that lie elsewhere are taken as they were: their labels would have to be fetched.
        """
        if getattr(self.source, "remote", False):
            return
        labels = np.concatenate([self.source.labels(block) for block in range(len(self.source.block_sizes))])
        if not np.array_equal(labels, cache.labels, equal_nan=True):
            raise UserError(
                f"The cache {cache.folder} was made of other labels than the data has now, though its files have the "
                "same size and footers. Remove that folder, or choose another data.cache_folder; it is made again."
            )

    def _make(self, spec: CacheSpec, folder: Path) -> None:
        strategy = self.trainer.strategy
        # Decided by all together: a rank that comes late may find the cache complete and must still meet the others.
        if not strategy.reduce_boolean_decision(not PreparedCache.is_complete(folder, spec), all=False):
            return
        making = partial(prepare, self.source, spec, self.sdxl, strategy.root_device, folder)
        making(part=self.trainer.global_rank, parts=self.trainer.world_size)
        strategy.barrier()
        if self.trainer.is_global_zero:
            making()
        strategy.barrier()

    def _order(self, cache: PreparedCache | None) -> Order:
        seed, window = self.draw.seed, self.settings.window
        if window is not None:
            return WindowOrder(seed, self.source.block_sizes, window, partial(_used, self.source, self.selection))
        if cache:
            labels = cache.labels
        else:
            with ThreadPoolExecutor(READERS) as readers:
                labels = np.concatenate(list(readers.map(self.source.labels, range(len(self.source.block_sizes)))))
        rows = np.flatnonzero(self.selection.keeps(np.asarray(labels)))
        if cache and self.settings.cache.aspect_buckets:
            return BucketOrder(seed, rows, cache.buckets[rows], self.samples_per_forward)
        return GlobalOrder(seed, rows)


def check_layout(saved: dict[str, Any], layout: dict[str, Any]) -> None:
    """Raise UserError unless a checkpoint was made with this layout of the data."""
    for name, now in layout.items():
        if saved.get(name) != now:
            raise UserError(
                f"The checkpoint was trained with {name.replace('_', ' ')} {saved.get(name)}, now it is {now}. Restore "
                "the data and batch settings, or start a new run with another output_dir."
            )


def _used(source: Source, selection: Selection, block: int) -> np.ndarray:
    return selection.keeps(source.labels(block))


def _as_it_is(batch: Any) -> Any:
    """The data sets make whole batches themselves; there is nothing to collate."""
    return batch
