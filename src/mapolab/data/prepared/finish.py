"""The last step: which row has which image and prompt, and the manifest that says that the cache is whole."""

from pathlib import Path

import numpy as np
import torch

from mapolab import checksums
from mapolab.data.prepared.plan import Plan
from mapolab.data.prepared.scan import Scan
from mapolab.data.prepared.spec import CacheSpec
from mapolab.data.prepared.units import Unit, from_numpy

MANIFEST = "manifest.json"
ROWS = "rows"


def finish(folder: Path, spec: CacheSpec, plan: Plan, scanned: Scan, images: list[Unit], prompts: list[Unit]) -> None:
    """Write `rows.safetensors` and then the manifest. Two processes that do so at once write the same.

    Raises DamagedUnit for a shard that is not what was written.
    """
    shards = [unit.read() for unit in images]
    per_image = {
        name: torch.cat([shard[name] for shard in shards]) for name in ("time_ids", "place", "sound", "bucket")
    }
    rows = Unit(folder, ROWS, spec.key)
    notes = [unit.note() or {} for unit in images]
    broken = {image: reason for note in notes for image, reason in note["broken"].items()}
    rows.write(
        {
            "labels": from_numpy(scanned.labels),
            "weights": from_numpy(scanned.weights),
            "buckets": from_numpy(scanned.buckets),
            "images": from_numpy(plan.row_images),
            "prompts": from_numpy(plan.row_prompts),
            **per_image,
        },
        broken=broken,
    )
    files = {str(unit.path.relative_to(folder)): unit.note() for unit in [*images, *prompts, rows]}
    written = ("bytes", "sha256", "crc32")  # earlier versions have no crc32
    content = {name: {key: note[key] for key in written if key in note} for name, note in files.items() if note}
    checksums.write_json(
        folder / MANIFEST,
        {
            **spec.ingredients,
            "rows": len(scanned.labels),
            "images": len(plan.image_rows),
            "prompts": len(plan.prompt_rows),
            "broken_images": len(broken),
            "images_per_shard": plan.images_per_shard,
            "prompts_per_shard": plan.prompts_per_shard,
            "bytes": int(np.sum([note["bytes"] for note in content.values()])),
            "files": content,
        },
    )
