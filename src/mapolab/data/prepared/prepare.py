"""Making a cache, or what is missing of it."""

import shutil
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

from mapolab import checksums
from mapolab.data.image_ids import check_image_ids, repeated
from mapolab.data.prepared import encode, scan
from mapolab.data.prepared.finish import MANIFEST, finish
from mapolab.data.prepared.opened import PreparedCache, read_manifest
from mapolab.data.prepared.plan import Plan, image_units, make_plan, prompt_units
from mapolab.data.prepared.progress import Progress, amount
from mapolab.data.prepared.spec import DTYPES, CacheSpec
from mapolab.data.prepared.units import DamagedUnit, Unit
from mapolab.data.records import Source
from mapolab.errors import UserError
from mapolab.files import sweep
from mapolab.models.encoder import Encoder
from mapolab.models.sdxl import SDXL
from mapolab.output import CACHE, OutputFolder

INGREDIENTS = "ingredients.json"
Work = tuple[Unit, int, Callable[[], None]]


def prepare(
    source: Source,
    spec: CacheSpec,
    sdxl: SDXL,
    device: torch.device,
    folder: Path,
    part: int = 0,
    parts: int = 1,
    verify: bool = False,
) -> bool:
    """Make this part's share of the cache in `folder`; what is there already stays. Returns whether it is complete.

    Any number of processes may work at once, each on its part of `parts`; the one that finds all of them done writes
    the manifest. verify: compare all that is there with its checksums, instead of its sizes alone. What is read and
    found damaged is made again, once.
    Raises UserError for a folder with another cache, a disk too small, models that cannot be loaded, and data in which
    an image id names several images.
    """
    _claim(folder, spec)
    _drop_exchanged(folder, spec)
    if verify:
        _drop_damaged(folder, spec)
    again: set[Path] = set()
    while True:
        try:
            return _make(source, spec, sdxl, device, folder, part, parts)
        except DamagedUnit as damaged:
            if damaged.path in again:
                raise
            again.add(damaged.path)
            _say_damaged(damaged.path)


def _make(
    source: Source, spec: CacheSpec, sdxl: SDXL, device: torch.device, folder: Path, part: int, parts: int
) -> bool:
    scanned = _scan(source, spec, folder, part, parts)
    plan = make_plan(scanned, spec.resolution)
    if not len(plan.image_rows):
        raise UserError(
            f"None of the data's {len(scanned.labels)} rows can be used: all are unlabelled, or lack a caption. Choose "
            "another data.path, or write label_0 and caption."
        )
    images, prompts = image_units(folder, plan, spec.key), prompt_units(folder, plan, spec.key)
    mine = _share([*images, *prompts], part, parts)
    if any(unit.note() is None for unit in mine):
        (folder / MANIFEST).unlink(missing_ok=True)  # it has the checksums of what is made again
        encoder = Encoder.load(sdxl).to(device)
        _announce(source, spec, plan, encoder, folder, part, parts)
        _work(_image_work(source, spec, plan, encoder, images), mine, "images")
        _work(_prompt_work(source, spec, plan, encoder, prompts), mine, "prompts")
    missing = sum(unit.note() is None for unit in [*images, *prompts])
    if missing:
        print(f"Part {part} of {parts} is done; {missing} shards of other parts are still to come.", flush=True)
        return False
    if not PreparedCache.is_complete(folder, spec):
        finish(folder, spec, plan, scanned, images, prompts)
        _report(folder)
    return True


def _claim(folder: Path, spec: CacheSpec) -> None:
    """Say beforehand what the folder is for, so that two different caches never share one, and remove what killed
    processes left of unfinished files."""
    OutputFolder(folder, CACHE).check()
    for part in (folder, *(entry for entry in folder.glob("*") if entry.is_dir())):
        sweep(part)
    file = folder / INGREDIENTS
    try:
        spec.check(folder, checksums.read_json(file))
    except (OSError, ValueError):
        if file.exists() and folder.name != spec.key:  # whose name would say the same
            raise UserError(
                f"{file} is damaged, so it is unknown what the cache in this folder was made of. Remove the folder."
            ) from None
        checksums.write_json(file, spec.ingredients)


def _drop_exchanged(folder: Path, spec: CacheSpec) -> None:
    """Let units count as missing whose notes tell of another file than the manifest, if there is one."""
    manifest = read_manifest(folder) or {"files": {}}
    if any(manifest.get(name) != wanted for name, wanted in spec.ingredients.items()):
        return
    for name, written in manifest["files"].items():
        unit = Unit(folder, name.removesuffix(".safetensors"), spec.key)
        note = unit.note()
        if note is not None and note["sha256"] != written["sha256"]:
            unit.damaged()
            _say_damaged(unit.path)


def _drop_damaged(folder: Path, spec: CacheSpec) -> None:
    """Let units whose content is not what was written count as missing: they are then made again."""
    for file in sorted(folder.rglob("*.safetensors")):
        unit = Unit(folder, file.relative_to(folder).with_suffix("").as_posix(), spec.key)
        if not unit.is_sound():
            unit.damaged()
            _say_damaged(file)


def _say_damaged(file: Path) -> None:
    print(f"{file} is damaged; it is made again.", file=sys.stderr, flush=True)


def _scan(source: Source, spec: CacheSpec, folder: Path, part: int, parts: int) -> scan.Scan:
    """What all rows hold, after what was missing of it has been read.

    Raises UserError where an image id names several images, which only their content can tell: those with an id that
    occurs again are read once more, at the speed of the disk.
    """

    def complete(kind: str, make: Callable[[range, Unit], None]) -> list[Unit]:
        """Every process needs all of it: each begins elsewhere and takes what it finds."""
        units = scan.units(folder, source, spec.key, kind)
        pairs = list(zip(units, scan.ranges(source), strict=True))
        begin = len(pairs) * part // parts
        for unit, blocks in pairs[begin:] + pairs[:begin]:
            if unit.note() is None:
                make(blocks, unit)
        return units

    scanned = scan.load_scan(complete("scan", partial(scan.scan_blocks, source, spec)))
    wanted = repeated(scanned.images) & scanned.usable[:, None]
    if wanted.any():
        contents = complete("contents", partial(scan.scan_contents, source, wanted))
        check_image_ids(source, scanned.images, scan.load_contents(contents))
    return scanned


def _share(units: list[Unit], part: int, parts: int) -> list[Unit]:
    return units[part::parts]


def _image_work(source: Source, spec: CacheSpec, plan: Plan, encoder: Encoder, units: list[Unit]) -> Iterable[Work]:
    for unit, images in zip(units, plan.image_shards, strict=True):
        yield unit, len(images), partial(encode.encode_images, source, plan, spec, images, encoder, unit)


def _prompt_work(source: Source, spec: CacheSpec, plan: Plan, encoder: Encoder, units: list[Unit]) -> Iterable[Work]:
    for unit, prompts in zip(units, plan.prompt_shards, strict=True):
        yield unit, len(prompts), partial(encode.encode_prompts, source, plan, spec, prompts, encoder, unit)


def _work(work: Iterable[Work], mine: list[Unit], what: str) -> None:
    paths = {unit.path for unit in mine}
    todo = [(size, make) for unit, size, make in work if unit.path in paths and unit.note() is None]
    with Progress(what, sum(size for size, _ in todo)) as progress:
        for size, make in todo:
            make()
            progress.advance(size)


def _announce(
    source: Source, spec: CacheSpec, plan: Plan, encoder: Encoder, folder: Path, part: int, parts: int
) -> None:
    """Say how much there is to do and how large it will be. Raises UserError if the disk has no room for it."""
    images, prompts = len(plan.image_rows), len(plan.prompt_rows)
    values = images * len(spec.orientations) * (2 if spec.with_std else 1) * encoder.values_per_image(spec.resolution)
    size = (values + prompts * encoder.values_per_prompt) * DTYPES[spec.dtype].itemsize
    share = f" Part {part} of {parts}." if parts > 1 else ""
    print(
        f"Encoding {images} images and {prompts} prompts of {sum(source.block_sizes)} rows once, for this and later "
        f"runs: about {amount(size)} in {folder}.{share}",
        flush=True,
    )
    there = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    free = shutil.disk_usage(folder).free
    if size - there > free:
        raise UserError(
            f"The cache takes about {amount(size)}, but the disk of {folder} has only {amount(free)} free. Choose "
            "another data.cache_folder, data.cache_dtype=float16, or data.vae_posterior=mean."
        )


def _report(folder: Path) -> None:
    manifest = checksums.read_json(folder / MANIFEST)
    broken = f" {manifest['broken_images']} images are broken." if manifest["broken_images"] else ""
    print(f"The cache is complete: {amount(manifest['bytes'])} in {folder}.{broken}", flush=True)
