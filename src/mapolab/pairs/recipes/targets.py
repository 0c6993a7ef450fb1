"""Target pictures against a model's own: personalization."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mapolab.data.images import BrokenImage, whole_picture
from mapolab.data.sources.folder import captions_in, image_names
from mapolab.errors import UserError
from mapolab.files import read_regular, short_hash
from mapolab.pairs.drawing import Studio
from mapolab.pairs.held_out import HeldOut
from mapolab.pairs.material import Contest, Material, Picture
from mapolab.pairs.recipes.drawn import Models
from mapolab.paths import resolve
from mapolab.pictures import MOST_BYTES


def targets(config: dict[str, Any], held_out: HeldOut, models: Models = None) -> Material:
    """Each picture of the folder `targets` is chosen against what the model draws for its caption.

    rejected_prompt: what it draws instead, such as the class's name in place of a learned word; rejected_words: words
    of the caption to replace. Raises UserError for a picture that is broken or has no caption.
    """
    folder = Path(resolve(config["targets"]))
    found = read_targets(folder)
    kept = held_out(list(enumerate(found.items())), lambda item: item[1][1][0])
    studio = Studio(config, models, 1)
    _check_words(config["rejected_words"], [caption for _, (_, (caption, _)) in kept])
    asked = [_rejected_prompt(caption, config) for _, (_, (caption, _)) in kept]
    settings = studio.settings(asked)
    seeds = studio.seeds()
    drawings = [(text, seed, place) for text, (place, _) in zip(asked, kept, strict=True) for seed in seeds]
    sheet = studio.sheet(drawings, settings)
    contests = [
        Contest(caption, (_target(folder / name, digest), sheet.picture(number * len(seeds) + extra)), place)
        for number, (place, (name, (caption, digest))) in enumerate(kept)
        for extra in range(len(seeds))
    ]
    material = studio.material(contests, [sheet], len(found) - len(kept), targets=short_hash(found), count=len(found))

    def read(picture: Picture) -> bytes:
        return picture.place.read_bytes() if isinstance(picture.place, Path) else studio.read(picture)

    return replace(material, read=read)


def read_targets(folder: Path) -> dict[str, tuple[str, str]]:
    """name -> (caption, SHA-256) of each picture of a folder, in the order of the names.

    Raises UserError for what is missing or broken: of a handful of pictures each one counts.
    """
    names = sorted(image_names(folder))
    captions = captions_in(folder, names, None)
    if not names:
        raise UserError(f"targets={folder} holds no picture (.jpg, .png, .webp). Put some there, with captions.csv.")
    if lacking := [name for name in names if not captions.get(name)]:
        raise UserError(
            f"{len(lacking)} of the {len(names)} pictures in {folder} have no caption, such as {lacking[0]}. Write a "
            "captions.csv with the columns name and caption, or a .txt file beside each picture."
        )
    if absent := sorted(captions.keys() - {*names}):
        raise UserError(f"{folder} has a caption for {absent[0]}, but no such picture. Correct the name, or remove it.")
    found = {}
    for name in names:
        data = read_regular(folder / name, MOST_BYTES)
        try:
            whole_picture(data)
        except BrokenImage as error:
            raise UserError(
                f"The picture {folder / name} is broken ({error}). Replace it, or remove it with its caption."
            ) from None
        found[name] = (captions[name], hashlib.sha256(data).hexdigest())
    return found


def _target(file: Path, digest: str) -> Picture:
    return Picture(digest[:40], file, "target")


def _check_words(words: Sequence[Sequence[str]], captions: Sequence[str]) -> None:
    """A word that is nowhere would be left in place without a word."""
    for word, _ in words:
        if not any(word in caption for caption in captions):
            raise UserError(
                f"rejected_words replaces {word!r}, which no caption holds, such as {captions[0]!r}. Correct the word."
            )


def _rejected_prompt(caption: str, config: Mapping[str, Any]) -> str:
    if config["rejected_prompt"]:
        return config["rejected_prompt"]
    for word, other in config["rejected_words"]:
        caption = caption.replace(word, other)
    return caption
