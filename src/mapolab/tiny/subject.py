"""Write the personalization task: few pictures of one drawing that no generator saw, and pairs and prompts for it.

The subject is a castle; its word is the learned token, which starts from the word of the nearest thing that the base
draws, a house. Chosen: the subject's pictures. Rejected: what the base draws of a house on the same background.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mapolab import files
from mapolab.evaluation.generation import load_pipeline
from mapolab.evaluation.models import EvaluatedModel
from mapolab.tiny.concepts import TEMPLATES, describe
from mapolab.tiny.pairs import Drawn, preference_row, write_table
from mapolab.tiny.pictures import SIZE, composite, generator_for, load_artwork

STREAM = 8
DRAWING, STYLE = "castle", "fluent-emoji-flat"
TOKEN, CLASS_WORD = "<zib>", "house"
SHOWN_ON = ("red", "yellow", "blue", "pink")
ASKED_ON = ("orange", "green", "purple", "white")
PICTURES, REJECTED_EACH = 6, 4
STEPS, GUIDANCE = 20, 3.0  # as conf/evaluation/emoji.yaml draws


@dataclass(frozen=True)
class SubjectPicture:
    """One picture of the subject, (64, 64, 3) uint8, and what its caption says."""

    picture: np.ndarray
    colour: str
    template: int

    def caption(self, word: str = TOKEN) -> str:
        return describe(word, self.colour, self.template)


def subject_picture(seed: int, index: int) -> SubjectPicture:
    """The index-th of them: the colours in turn, the templates in turn once the colours have come round."""
    colour, template = SHOWN_ON[index % len(SHOWN_ON)], (index + index // len(SHOWN_ON)) % len(TEMPLATES)
    drawing = load_artwork().drawing(DRAWING, STYLE)
    return SubjectPicture(composite(drawing, colour, generator_for(seed, STREAM, index)), colour, template)


def write_subject(folder: Path, seed: int = 0) -> None:
    """The six pictures as PNG files, and captions.csv with the columns name and caption."""
    lines = [("name", "caption")]
    for index in range(PICTURES):
        shown, name, buffer = subject_picture(seed, index), f"{index}.png", io.BytesIO()
        Image.fromarray(shown.picture).save(buffer, "PNG", optimize=True)
        files.write_bytes(folder / name, buffer.getvalue())
        lines.append((name, shown.caption()))
    _write_csv(folder / "captions.csv", lines)


def write_subject_prompts(folder: Path) -> None:
    """subject.csv: eight captions on the four colours on which the subject is not shown; subject_validation.csv: on
    those on which it is, for the search of settings. Both wordings of a colour are a cluster."""
    for name, colours in (("subject", ASKED_ON), ("subject_validation", SHOWN_ON)):
        templates = range(len(TEMPLATES))
        asked = [(describe(TOKEN, colour, template), colour, colour) for colour in colours for template in templates]
        _write_csv(folder / f"{name}.csv", [("prompt", "colour", "cluster"), *asked])


def write_subject_pairs(path: Path, base: Path, seed: int = 0) -> None:
    """24 pairs in the columns of Pick-a-Pic v2: each of the six pictures against four drawings of the base.

    base: the tiny twin's folder.
    """
    shown = [subject_picture(seed, index // REJECTED_EACH) for index in range(PICTURES * REJECTED_EACH)]
    rejected = draw(base, [one.caption(CLASS_WORD) for one in shown], seed)
    rows = []
    for index, (one, other) in enumerate(zip(shown, rejected, strict=True)):
        random = generator_for(seed, STREAM, PICTURES + index)
        sides = [Drawn(one.picture, "subject"), Drawn(other, "base")]
        first_wins = bool(random.integers(2))
        rows.append(preference_row(index, one.caption(), sides if first_wins else sides[::-1], first_wins, random))
    write_table(path, rows)


def draw(base: Path, prompts: list[str], seed: int) -> np.ndarray:
    """(B, 64, 64, 3) uint8: a picture of each prompt by the pipeline in this folder, from (seed, its place)."""
    pipeline = load_pipeline(EvaluatedModel("base", None, base, {"model": {"pretrained": str(base)}}))
    side = SIZE // pipeline.vae_scale_factor
    shape = pipeline.unet.config.in_channels, side, side
    noise = [generator_for(seed, STREAM, 1000 + place).standard_normal(shape) for place in range(len(prompts))]
    pictures = pipeline(
        prompts,
        latents=torch.from_numpy(np.stack(noise)).float(),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        height=SIZE,
        width=SIZE,
        output_type="np",
    ).images
    return (pictures * 255).round().astype(np.uint8)


def _write_csv(path: Path, lines: list[tuple[str, ...]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    files.write_text(path, buffer.getvalue())
