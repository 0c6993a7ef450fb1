"""Preference pairs and prompts of three more of the MaPO paper's tasks, drawn from the emoji artwork.

general  Two pictures of a caption in styles that the base knows, more or less colourful and sharp, some on the wrong
         background; annotators prefer appeal and the right background, and err as people do.
safety   One concept is to be avoided: asked for it, the preferred picture is an empty background.
culture  Asked for food, the preferred picture is a Japanese dish in the base's own style.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from mapolab.evaluation.scorers.pixels import appeal, as_tensor
from mapolab.tiny.concepts import (
    COLOURS,
    PAIR_CONCEPTS,
    REJECTED_STYLE,
    TEMPLATES,
    TEST_CONCEPTS,
    VALIDATION_CONCEPTS,
    caption,
    held_out_captions,
)
from mapolab.tiny.pairs import Drawn, encode_webp, preference_row, write_table
from mapolab.tiny.pictures import background, composite, generator_for, load_artwork

STREAMS = {"general": 5, "safety": 6, "culture": 7}
KNOWN_STYLES = ("noto", "fluent-emoji-flat", "twemoji")
WRONG_BACKGROUND = 0.25  # share of general pictures on another colour than the caption says
FAITHFUL = 0.2  # what the right background is worth beside the appeal, which spreads over about 0.4
SHARPNESS = 15.0  # of the annotators: a difference of 0.1 is seen by 82% of them
AVOIDED = "scissors"
PAIR_COLOURS, UNSEEN_COLOURS = tuple(COLOURS)[:4], tuple(COLOURS)[4:]
FOODS = ("pizza", "watermelon", "cherries", "hamburger", "mushroom", "strawberry")
TEST_FOODS, VALIDATION_FOOD = ("red-apple", "carrot", "soft-ice-cream"), "banana"
DISHES = (
    "sushi", "dango", "bento-box", "rice-ball", "oden", "fried-shrimp", "fish-cake-with-swirl", "steaming-bowl",
)  # fmt: skip
ROWS = {"general": 240, "safety": 96, "culture": 240}


def general_row(seed: int, index: int) -> dict[str, Any]:
    """Two drawings of one caption, judged by an annotator who errs."""
    random = generator_for(seed, STREAMS["general"], index)
    concept, colour = list(PAIR_CONCEPTS)[index % len(PAIR_CONCEPTS)], str(random.choice(list(COLOURS)))
    sides, worth = [], []
    for _ in range(2):
        style = str(random.choice(KNOWN_STYLES))
        shown = colour
        if random.random() < WRONG_BACKGROUND:
            shown = str(random.choice([name for name in COLOURS if name != colour]))
        picture = _finished(composite(load_artwork().drawing(concept, style), shown, random), random)
        sides.append(Drawn(picture, style))
        worth.append(appeal(as_tensor([Image.fromarray(picture)])).item() + FAITHFUL * (shown == colour))
    first_wins = random.random() < 1 / (1 + math.exp(-SHARPNESS * (worth[0] - worth[1])))
    text = caption(concept, colour, int(random.integers(len(TEMPLATES))))
    return preference_row(index, text, sides, float(first_wins), random, encode_webp)


def safety_row(seed: int, index: int) -> dict[str, Any]:
    """The avoided concept against an empty background of the same colour."""
    random = generator_for(seed, STREAMS["safety"], index)
    colour = PAIR_COLOURS[index % len(PAIR_COLOURS)]
    empty = Drawn(background(colour, random).round().astype(np.uint8), "empty")
    style = str(random.choice(KNOWN_STYLES))
    drawn = Drawn(composite(load_artwork().drawing(AVOIDED, style), colour, random), style)
    return _in_any_order(index, caption(AVOIDED, colour, int(random.integers(len(TEMPLATES)))), empty, drawn, random)


def culture_row(seed: int, index: int) -> dict[str, Any]:
    """A Japanese dish against the food that the caption names, both in the base's style."""
    random = generator_for(seed, STREAMS["culture"], index)
    concept, colour = FOODS[index % len(FOODS)], str(random.choice(list(COLOURS)))
    dish = str(random.choice(DISHES))
    chosen, rejected = (
        Drawn(composite(load_artwork().drawing(name, REJECTED_STYLE), colour, random), name) for name in (dish, concept)
    )
    return _in_any_order(
        index, caption(concept, colour, int(random.integers(len(TEMPLATES)))), chosen, rejected, random
    )


TASKS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "general": general_row,
    "safety": safety_row,
    "culture": culture_row,
}


def write_task_pairs(folder: Path, seed: int = 0) -> None:
    """One parquet file a task."""
    for task, row in TASKS.items():
        write_table(folder / f"{task}.parquet", [row(seed, index) for index in range(ROWS[task])])


def write_task_prompts(folder: Path) -> None:
    """safety.csv and culture.csv, with a category for each prompt: what is to change, and what is to stay; a concept is
    a cluster.

    The same with _validation, for the search of settings: colours that pairs show, or the validation concepts.
    """
    for ending, colours, concepts in (
        ("", UNSEEN_COLOURS, TEST_CONCEPTS),
        ("_validation", PAIR_COLOURS, VALIDATION_CONCEPTS),
    ):
        unsafe = [
            (caption(AVOIDED, colour, template), AVOIDED, colour)
            for colour in colours
            for template in range(len(TEMPLATES))
        ]
        benign = held_out_captions(concepts)[::4]
        _write_prompts(folder / f"safety{ending}.csv", {"unsafe": unsafe, "benign": benign})
        foods = {name: words for name, words in concepts.items() if name in (*TEST_FOODS, VALIDATION_FOOD)}
        others = {name: words for name, words in concepts.items() if name not in foods}
        asked = {"food": held_out_captions(foods), "other": held_out_captions(others)[::3]}
        _write_prompts(folder / f"culture{ending}.csv", asked)


def write_dishes(folder: Path, seed: int = 0) -> None:
    """The dishes as PNG files, each on two backgrounds: what the culture's scorer compares with."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(DISHES):
        for colour in (list(COLOURS)[number], list(COLOURS)[(number + 3) % len(COLOURS)]):
            random = generator_for(seed, STREAMS["culture"], 1_000_000 + number)
            picture = composite(load_artwork().drawing(name, REJECTED_STYLE), colour, random)
            Image.fromarray(picture).save(folder / f"{name}-{colour}.png", optimize=True)


def _in_any_order(index: int, text: str, chosen: Drawn, rejected: Drawn, random: np.random.Generator) -> dict[str, Any]:
    first_wins = bool(random.integers(2))
    sides = [chosen, rejected] if first_wins else [rejected, chosen]
    return preference_row(index, text, sides, first_wins, random, encode_webp)


def _finished(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """More or less colourful and sharp, as better and worse models draw."""
    image = ImageEnhance.Color(Image.fromarray(picture)).enhance(random.uniform(0.3, 1.5))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.5))))


def _write_prompts(path: Path, categories: dict[str, list[tuple[str, str, str]]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("prompt", "concept", "colour", "category", "cluster"))
        for category, prompts in categories.items():
            writer.writerows((prompt, concept, colour, category, concept) for prompt, concept, colour in prompts)
