"""Recipes whose pictures are all drawn from a list of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from mapolab.errors import UserError
from mapolab.evaluation.models import EvaluatedModel
from mapolab.pairs.drawing import Studio
from mapolab.pairs.held_out import HeldOut
from mapolab.pairs.material import Contest, Material, Picture

Models = Sequence[EvaluatedModel] | None


def prefixes(config: dict[str, Any], held_out: HeldOut, models: Models = None) -> Material:
    """One model draws each prompt in two wordings, from the same noise; the pair's caption is the plain prompt.

    MaPO's recipe for its style, safety and culture sets (2406.06424, section 4).
    """
    studio = Studio(config, models, 1)
    prompts, dropped = studio.prompts(held_out)
    words = {side: (config[f"{side}_prefix"] or "", config[f"{side}_suffix"] or "") for side in ("chosen", "rejected")}
    settings = studio.settings([prompt for _, prompt in prompts])
    places = list(product(prompts, studio.seeds()))
    drawings = [
        (f"{before}{prompt}{after}", seed, position)
        for (position, prompt), seed in places
        for before, after in words.values()
    ]
    sheet = studio.sheet(drawings, settings)
    contests = [
        Contest(prompt, (sheet.picture(2 * index), sheet.picture(2 * index + 1)), position)
        for index, ((position, prompt), _) in enumerate(places)
    ]
    return studio.material(contests, [sheet], dropped, words={side: list(around) for side, around in words.items()})


def models(config: dict[str, Any], held_out: HeldOut, models: Models = None) -> Material:
    """Two models draw each prompt from the same noise; the first one's picture is chosen.

    Raises UserError where the two are the same weights.
    """
    studio = Studio(config, models, 2)
    better, worse = studio.models
    if better.fingerprint == worse.fingerprint:
        raise UserError(
            f"{better.folder} and {worse.folder} hold the same weights, so that each pair would be one picture twice. "
            "Name two different models: models=[<preferred>,<other>]."
        )
    prompts, dropped = studio.prompts(held_out)
    settings = studio.settings([prompt for _, prompt in prompts])
    drawings = [(prompt, seed, position) for position, prompt in prompts for seed in studio.seeds()]
    sheets = [studio.sheet(drawings, settings, number) for number in range(2)]
    contests = [
        Contest(prompt, (sheets[0].picture(index), sheets[1].picture(index)), position)
        for index, (prompt, _, position) in enumerate(drawings)
    ]
    return studio.material(contests, sheets, dropped)


def ranked(config: dict[str, Any], held_out: HeldOut, models: Models = None) -> Material:
    """One model draws each prompt several times, and scorers say which picture is better: AI feedback."""
    studio = Studio(config, models, 1)
    prompts, dropped = studio.prompts(held_out)
    settings = studio.settings([prompt for _, prompt in prompts])
    seeds = studio.seeds()
    drawings = [(prompt, seed, position) for position, prompt in prompts for seed in seeds]
    sheet = studio.sheet(drawings, settings)

    def drawn(number: int) -> tuple[Picture, ...]:
        return tuple(sheet.picture(number * len(seeds) + extra) for extra in range(len(seeds)))

    contests = [Contest(prompt, drawn(number), position, None) for number, (position, prompt) in enumerate(prompts)]
    return studio.material(contests, [sheet], dropped)
