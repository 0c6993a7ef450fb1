"""A finished cache, as training reads it."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mapolab import checksums
from mapolab.data.prepared.finish import MANIFEST, ROWS
from mapolab.data.prepared.spec import CacheSpec
from mapolab.data.prepared.units import Unit, shard_name
from mapolab.errors import UserError

COUNTS = ("rows", "images", "prompts", "images_per_shard", "prompts_per_shard")
OPEN_SHARDS = 16384  # mapped at once by one process; Linux allows 65,530 mappings


class PreparedCache:
    """Encoded images and prompts by row. Everything is mapped into memory: opening reads the index of rows alone.

    A shard is compared with its checksum when a process first comes to it, and then read where it is looked at. What
    reads one raises DamagedUnit where it is not what was written.

    labels, weights: (N,) float64, as the source has them. buckets: (N,) int64, number of the row's shape.
    """

    def __init__(self, folder: Path, key: str, manifest: dict[str, Any]):
        self.folder, self.key, self.manifest = folder, key, manifest
        self._map()

    @classmethod
    def open(cls, folder: Path, spec: CacheSpec) -> "PreparedCache":
        """Raises UserError for a cache that is not there, not whole, or not made from what `spec` says."""
        if (manifest := read_manifest(folder)) is None:
            raise UserError(f"{folder} holds no finished cache. Make it with `mapolab prepare`.")
        spec.check(folder, manifest)
        if damaged := cls._damaged(folder, manifest):
            raise UserError(f"The cache's file {damaged} is damaged or missing. `mapolab prepare` makes it again.")
        return cls(folder, spec.key, manifest)

    @classmethod
    def is_complete(cls, folder: Path, spec: CacheSpec) -> bool:
        """Whether the folder holds the finished cache: its index is sound, and all other files have their sizes."""
        try:
            cls.open(folder, spec)
        except UserError:
            return False
        return True

    @staticmethod
    def _damaged(folder: Path, manifest: dict[str, Any]) -> Path | None:
        for name, note in manifest["files"].items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != note["bytes"] or not file.with_suffix(".json").is_file():
                return file
        return None

    def fault(self, row: int, places: list[int]) -> str | None:
        """Why a row, or the images at these places in it, cannot be used; None if they can."""
        if self.prompts_of_rows[row] < 0:
            return "no caption, or a broken label"
        for place in places:
            image = self.images_of_rows[row, place]
            if not self.sound[image]:
                return self.broken.get(str(image), "image broken")
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
            self._open[key] = self._checked(kind, number)
        self._open.move_to_end(key)
        return self._open[key]

    def _checked(self, kind: str, number: int) -> dict[str, Tensor]:
        unit = Unit(self.folder, shard_name(kind, number), self.key)
        tensors = unit.read(self.manifest["files"].get(str(unit.path.relative_to(self.folder)), {"bytes": None}))
        # Earlier versions' manifests have no checksum of their own: with other numbers of it, another image is found.
        per_shard = self.manifest[f"{kind}_per_shard"]
        expected = min(per_shard, self.manifest[kind] - number * per_shard)
        if len(tensors["sound" if kind == "images" else "prompt_embeds"]) != expected:
            raise unit.damaged()
        return tensors

    def _map(self) -> None:
        self._open: OrderedDict[tuple[str, int], dict[str, Tensor]] = OrderedDict()
        rows = Unit(self.folder, ROWS, self.key)
        written = self.manifest["files"][f"{ROWS}.safetensors"]
        tensors, note = rows.read(written), rows.note()
        counts, counted = (
            (self.manifest["rows"], self.manifest["images"]),
            (len(tensors["labels"]), len(tensors["sound"])),
        )
        if note is None or note["sha256"] != written["sha256"] or counts != counted:
            raise rows.damaged()
        self.broken: dict[str, str] = note["broken"]
        self.labels, self.weights, self.buckets = (tensors[name].numpy() for name in ("labels", "weights", "buckets"))
        # As numpy arrays, whose single elements are read several times faster than a tensor's.
        self.images_of_rows, self.prompts_of_rows = tensors["images"].numpy(), tensors["prompts"].numpy()
        self.place, self.sound, self.bucket = (tensors[name].numpy() for name in ("place", "sound", "bucket"))
        self._time_ids = tensors["time_ids"]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "key": self.key, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = dict(state)
        self._map()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """None where there is none that is whole."""
    try:
        manifest = checksums.read_json(folder / MANIFEST)
        whole = all(type(manifest[name]) is int for name in COUNTS) and all(manifest[name] > 0 for name in COUNTS[3:])
        whole &= f"{ROWS}.safetensors" in manifest["files"]
        whole &= all(note["sha256"] and type(note["bytes"]) is int for note in manifest["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if whole else None
