"""A finished cache, as training reads it."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mapolab.data.prepared.finish import MANIFEST, ROWS
from mapolab.data.prepared.spec import CacheSpec
from mapolab.data.prepared.units import Unit
from mapolab.errors import UserError
from mapolab.files import read_json

OPEN_SHARDS = 16384  # mapped at once by one process; Linux allows 65,530 mappings


class PreparedCache:
    """Encoded images and prompts by row. Everything is mapped into memory: opening reads next to nothing.

    labels, weights: (N,) float64, as the source has them. buckets: (N,) int64, number of the row's shape.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder, self.manifest = folder, manifest
        self._map()

    @classmethod
    def open(cls, folder: Path, spec: CacheSpec) -> "PreparedCache":
        """Raises UserError for a cache that is not there, not whole, or not made from what `spec` says."""
        try:
            manifest = read_json(folder / MANIFEST)
        except (OSError, ValueError):
            raise UserError(f"{folder} holds no finished cache. Make it with `mapolab prepare`.") from None
        spec.check(folder, manifest)
        if damaged := cls._damaged(folder, manifest):
            raise UserError(f"The cache's file {damaged} is cut off or missing. `mapolab prepare` makes it again.")
        return cls(folder, manifest)

    @classmethod
    def is_complete(cls, folder: Path) -> bool:
        """Whether the folder holds a finished cache whose files have their sizes."""
        try:
            return cls._damaged(folder, read_json(folder / MANIFEST)) is None
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @staticmethod
    def _damaged(folder: Path, manifest: dict[str, Any]) -> Path | None:
        for name, note in manifest["files"].items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != note["bytes"]:
                return file
        return None

    def fault(self, row: int, places: list[int]) -> str | None:
        """Why a row, or the images at these places in it, cannot be used; None if they can."""
        if self.prompts_of_rows[row] < 0:
            return "no caption, or a broken label"
        for place in places:
            image = self.images_of_rows[row, place]
            if not self.sound[image]:
                return self.broken[str(image)]
        return None

    def prompts(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """prompt_embeds (B, L, D) and pooled_prompt_embeds (B, P) float32."""
        found = [divmod(number, self.manifest["prompts_per_shard"]) for number in self.prompts_of_rows[rows].tolist()]
        shards = [(self._shard("prompts", shard), place) for shard, place in found]
        embeds, pooled = (
            torch.stack([shard[name][place] for shard, place in shards]).float()
            for name in ("prompt_embeds", "pooled_prompt_embeds")
        )
        return embeds, pooled

    def images(self, rows: list[int], places: list[int], mirrored: list[bool]) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation (None if only means are kept) of latents, (B, C, H, W)."""
        images = self.images_of_rows[rows, places]
        found: list[tuple[dict[str, Tensor], int, tuple[int, int]]] = []
        for image, flip in zip(images.tolist(), mirrored, strict=True):
            shard = self._shard("images", image // self.manifest["images_per_shard"])
            found.append((shard, int(self.bucket[image]), (int(self.place[image]), int(flip))))
        means = torch.stack([shard[f"means/{bucket}"][place] for shard, bucket, place in found]).float()
        stds = None
        if self.manifest["with_std"]:
            stds = torch.stack([shard[f"stds/{bucket}"][place] for shard, bucket, place in found]).float()
        return means, stds

    def time_ids(self, rows: list[int], places: list[int]) -> Tensor:
        """(B, 6) float32: what was done to each image, whatever a run is told of it."""
        return self._time_ids[torch.from_numpy(self.images_of_rows[rows, places])]

    def _shard(self, kind: str, number: int) -> dict[str, Tensor]:
        key = kind, number
        if key not in self._open:
            while len(self._open) >= OPEN_SHARDS:
                self._open.popitem(last=False)
            self._open[key] = Unit(self.folder / kind / f"{number:05d}.safetensors").read()
        self._open.move_to_end(key)
        return self._open[key]

    def _map(self) -> None:
        self._open: OrderedDict[tuple[str, int], dict[str, Tensor]] = OrderedDict()
        rows = Unit(self.folder / ROWS)
        tensors = rows.read()
        self.broken: dict[str, str] = (rows.note() or {})["broken"]
        self.labels, self.weights, self.buckets = (tensors[name].numpy() for name in ("labels", "weights", "buckets"))
        # As numpy arrays, whose single elements are read several times faster than a tensor's.
        self.images_of_rows, self.prompts_of_rows = tensors["images"].numpy(), tensors["prompts"].numpy()
        self.place, self.sound, self.bucket = (tensors[name].numpy() for name in ("place", "sound", "bucket"))
        self._time_ids = tensors["time_ids"]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = dict(state)
        self._map()
