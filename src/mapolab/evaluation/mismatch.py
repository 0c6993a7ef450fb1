"""``mapolab mismatch data=... model=...``, or ``run=...``: how far a model's pictures are from the preferred ones.

The MaPO paper explains where Diffusion-DPO struggles by reference mismatch: the preferred pictures are unlike what the
reference draws for the same captions. Its measure is the distance of DINOv2 features.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from mapolab import files
from mapolab.config.compose import compose
from mapolab.config.environment_values import hide
from mapolab.data.images import BrokenImage, load
from mapolab.data.records import BrokenRow, Record, Source
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
from mapolab.evaluation.features import Features, build_features, frechet_and_kernel_distance
from mapolab.evaluation.generation import generate, load_pipeline, picture_keys
from mapolab.evaluation.intervals import INTERVALS
from mapolab.evaluation.models import EvaluatedModel, base_of, model_of_run
from mapolab.evaluation.options import USUAL, check_saved_source, check_settings, settings_of
from mapolab.evaluation.processes import start_processes
from mapolab.evaluation.prompt_lengths import cut_by_models, tell_cut
from mapolab.evaluation.statistics import MINIMUM, MethodScores, PairedStatistics
from mapolab.evaluation.store import Store
from mapolab.output import MODEL, OutputFolder, check_inside
from mapolab.run_files import RUN_FIX, with_checksum
from mapolab.streams import Stream, generator
from mapolab.texts import rich_text, say

NEEDED = ("path", "resolution")  # of a run's block data


def mismatch(config: dict[str, Any]) -> Path:
    """Measure the mismatch of the config's model and data, or of a run's; prints it, and returns the file with it.

    The file is <the model's folder>/mismatch/<data's fingerprint>-<features>.json, where `compare` finds it. Raises
    UserError for a model or data that cannot be used.
    """
    output_root = Path(config["output_root"])
    model = _run_of(config) if config["run"] else base_of(config, output_root)
    model.check()
    if model.run is None:
        OutputFolder(model.folder, MODEL).check()
    check_inside(model.folder, model.folder / "mismatch")
    source_config = model.run or config
    data = source_config["data"]
    own = {key: value for key, value in source_config["evaluation"].items() if value is not None}
    options = USUAL | own | {"height": data["resolution"], "width": data["resolution"]}
    check_settings(options, [model.sdxl], "evaluation.")
    # Never where a saved config says: it may be a stranger's.
    cache = Path(config["data"]["cache_folder"] or output_root / ".cache")
    source = open_source(data["path"], data["split"], data["revision"], cache, data["download_cache_gb"])
    processes = start_processes(1)
    features = build_features(config["features"], processes.device, config["feature_weights"])
    records = sample_records(source, config["pairs"], config["seed"], data["resolution"])
    captions = [caption for caption, _, _ in records]
    settings = settings_of(options, captions, [model], processes.device != "cpu")
    cut = cut_by_models([model], captions, settings)
    tell_cut(cut, len(captions))
    drawings = [(caption, settings["seed"], position) for position, caption in enumerate(captions)]
    keys = picture_keys(model, drawings, settings)
    store = Store(output_root / ".store")

    def pipeline():
        return load_pipeline(model, settings["scheduler"], settings["precision"]).to(processes.device)

    with Console().status(rich_text(f"drawing {len(captions)} captions with {model.name}")):
        generate(pipeline, drawings, keys, settings, store, options["batch_size"], (0, 1), lambda done: None)
    drawn = embed(features, [store.load_picture(key) for key in keys], options["batch_size"])
    sides = {"chosen": [chosen for _, chosen, _ in records], "rejected": [rejected for _, _, rejected in records]}
    found = {
        "features": features.name,
        "source": features.source,
        "features_fingerprint": features.fingerprint,
        "data": hide(data["path"], config, source_config),
        "split": data["split"],
        "data_fingerprint": source.fingerprint,
        "model": model.fingerprint,
        "pairs": len(records),
        "settings": settings,
        "cut_prompts": cut,
    }
    captions_of = np.array(captions)
    for side, pictures in sides.items():
        if all(picture is not None for picture in pictures):
            theirs = embed(features, pictures, options["batch_size"])
            found[side] = distances(drawn, theirs, captions_of)
    path = model.folder / "mismatch" / f"{source.fingerprint[:12]}-{features.name}.json"
    if not (model.folder / "manifest.json").is_file():
        about = {"status": "finished", "objective": {"name": "base"}, "label": "base", "seed": None}
        manifest = with_checksum(about | {"model": model.config["model"]}, "manifest")
        files.write_json(model.folder / "manifest.json", manifest)
    files.write_json(path, found)
    _print(found, path)
    return path


def _run_of(config: dict[str, Any]) -> EvaluatedModel:
    """The finished run that `run=` names. Raises UserError where the command also names a model or data."""
    plain = compose("mismatch")
    own = ("run", "pairs", "features", "feature_weights", "seed", "output_root")
    model = model_of_run(Path(config["run"]))
    data, named = model.run["data"], config["data"]["path"]
    if missing := [key for key in NEEDED if data.get(key) is None]:
        raise UserError(f"{model.folder / 'config.yaml'} has no data.{missing[0]}. {RUN_FIX}")
    if named != data["path"]:
        check_saved_source(data["path"], "data.path", model.folder, "data.path")
    else:  # the one word that may be repeated: it says that an address is to be fetched
        config = config | {"data": config["data"] | {"path": plain["data"]["path"]}}
    if changed := [key for key in plain if key not in own and config[key] != plain[key]]:
        raise UserError(
            f"run={config['run']} brings its own model, data and settings, so what you said of {', '.join(changed)} "
            f"would go unheard. Leave it out, or leave out run=; with it go {', '.join(own[1:])}."
        )
    absent = {"split": None, "revision": None, "download_cache_gb": plain["data"]["download_cache_gb"]}
    run = model.run | {"data": absent | data, "evaluation": model.run.get("evaluation") or {}}
    return replace(model, run=run)


def distances(drawn: torch.Tensor, theirs: torch.Tensor, captions: np.ndarray) -> dict[str, Any]:
    """Mean cosine distance of features caption by caption, 0..2, with its interval, None where it is unknown;
    both distances of the sets."""
    cosine = 1 - torch.nn.functional.cosine_similarity(drawn.double(), theirs.double()).numpy()
    mean = PairedStatistics(captions).mean(MethodScores(cosine[None], (None,), (0.0, 2.0)))
    about = {"distance": mean.value, "low": mean.low, "high": mean.high}
    return about | frechet_and_kernel_distance(drawn, theirs)


def sample_records(
    source: Source, count: int, seed: int, resolution: int
) -> list[tuple[str, Image.Image, Image.Image | None]]:
    """(caption, chosen picture, rejected picture) of up to `count` usable pairs without ties, in an order of the seed.

    rejected is None for single images. Pictures are covered and cut to `resolution`, as in training; broken rows are
    passed over. Raises UserError where nothing can be used.
    """
    found, broken = [], 0
    order = generator(seed, Stream.ORDER, 0).permutation(len(source.block_sizes))
    for block in order:
        records = source.records(int(block))
        for offset in generator(seed, Stream.ORDER, 1 + int(block)).permutation(len(records)):
            if len(found) == count:
                return found
            try:
                record = records[int(offset)]
                if record.label in (0, 1):
                    found += _sides(record, resolution)
            except (BrokenRow, BrokenImage):
                broken += 1
    if not found:
        raise UserError(
            f"The data has no pair that can be used ({broken} broken rows). Check data.path and data.split."
        )
    return found


def _sides(record: Record, resolution: int) -> list[tuple[str, Image.Image, Image.Image | None]]:
    pictures = [Image.fromarray(load(image.data, (resolution, resolution)).pixels.numpy()) for image in record.images]
    if len(pictures) == 1:
        return [(record.caption, pictures[0], None)] if record.label == 1 else []
    chosen, rejected = pictures if record.label == 1 else pictures[::-1]
    return [(record.caption, chosen, rejected)]


def embed(features: Features, pictures: list[Image.Image], batch_size: int) -> torch.Tensor:
    """-> (N, D)"""
    remaining = iter(pictures)
    batches = iter(lambda: list(islice(remaining, batch_size)), [])
    return torch.cat([features(batch) for batch in batches])


def _print(found: dict[str, Any], path: Path) -> None:
    # The two names belong to InceptionV3's features.
    named = ("FID", "KID") if found["features"] == "inception" else ("Frechet distance", "kernel distance")
    table = Table("the model's pictures against", f"{found['features']} distance", *named)
    for side in ("chosen", "rejected"):
        if side in found:
            one = found[side]
            interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
            distance = f"{one['distance']:.3f}{interval}"
            table.add_row(side, distance, f"{one['frechet_distance']:.1f}", f"{one['kernel_distance']:.4f}")
    console = Console()
    console.print(table)
    say(
        f"{found['pairs']} pairs. The distance is 1 - cosine of features, caption by caption: 0 would be the same "
        f"pictures. Brackets hold 95% {INTERVALS} over captions; fewer than {MINIMUM} have none. In {path}"
    )
