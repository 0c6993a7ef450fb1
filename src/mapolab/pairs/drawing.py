"""Drawing for pairs: by the evaluation's generator, into its store, from noise that both sides of a pair share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from mapolab.errors import UserError
from mapolab.evaluation.generation import generate, load_pipeline, picture_keys
from mapolab.evaluation.models import EvaluatedModel, find_models
from mapolab.evaluation.options import load_prompts, options_for, settings_of
from mapolab.evaluation.processes import Processes
from mapolab.evaluation.progress import progress_bar
from mapolab.evaluation.store import Store
from mapolab.pairs.held_out import HeldOut
from mapolab.pairs.material import Contest, Material, Picture, Sheet

# What runs may say about drawing, where the command does not; all else the command says itself.
OWN = ("prompts", "split", "revision", "limit", "scorers", "images_per_prompt", "seed")


class Studio:
    """The models that draw, and how. models: as `find_models` gives them.

    Raises UserError unless there are `count` of them, and where runs disagree on how to draw.
    """

    def __init__(self, config: dict[str, Any], models: Sequence[EvaluatedModel] | None, count: int) -> None:
        self.config, self.root = config, Path(config["output_root"])
        self.models = list(models or find_models(config["models"], self.root))
        self.store = store_of(config)
        if len(self.models) != count:
            wanted = "one model" if count == 1 else f"{count} models, the preferred one first"
            raise UserError(
                f"recipe={config['recipe']} draws with {wanted}, but models={config['models']} names "
                f"{len(self.models)}: {', '.join(model.name for model in self.models)}."
            )
        for model in self.models:
            model.check()
        given = config | {"prompts": config["prompts"] or "given", "scorers": []}
        self.options = options_for(self.models, given)

    def prompts(self, held_out: HeldOut) -> tuple[list[tuple[int, str]], int]:
        """(position, prompt) of those that are not held out, and how many are. Raises UserError where none is left."""
        prompts = load_prompts({key: self.config.get(key) for key in OWN}, self.root / ".cache")
        kept = held_out(list(enumerate(prompts)), lambda item: item[1])
        if not kept:
            raise UserError(f"All {len(prompts)} prompts stand in held_out={held_out.name}. Give others.")
        return kept, len(prompts) - len(kept)

    def settings(self, prompts: list[str]) -> dict[str, Any]:
        """As an evaluation of these prompts would have them."""
        return settings_of(self.options, prompts, self.models, torch.cuda.is_available())

    def seeds(self) -> list[int]:
        """Of a prompt's pictures."""
        return [self.config["seed"] + extra for extra in range(self.config["images_per_prompt"])]

    def sheet(self, drawings: list[tuple[str, int, int]], settings: dict[str, Any], model: int = 0) -> Sheet:
        """A sheet of the model of this number."""
        chosen = self.models[model]
        return Sheet(chosen, drawings, picture_keys(chosen, drawings, settings), settings)

    def material(self, contests: list[Contest], sheets: list[Sheet], held_out: int, **about: Any) -> Material:
        """What a recipe returns. held_out: prompts that were left out; about: what else decides the pairs."""
        named = [{"name": model.name, "fingerprint": model.fingerprint} for model in self.models]
        told = {"models": named, "drawing": sheets[0].settings, **about}
        return Material(told, contests, self.read, sheets, left_out(held_out), self.options["batch_size"])

    def read(self, picture: Picture) -> bytes:
        """The file of a picture that was drawn."""
        return plain_png(self.store.load_picture(picture.place))


def left_out(held_out: int) -> dict[str, int]:
    """`Material.dropped` for so many captions that are held out."""
    return {"held out": held_out} if held_out else {}


def store_of(config: dict[str, Any]) -> Store:
    """The store of pictures and scores, shared with evaluations."""
    return Store(Path(config["store"] or Path(config["output_root"]) / ".store"))


def plain_png(picture: Image.Image) -> bytes:
    """A picture's pixels as a file, without what the store's metadata tell of the evaluation that drew it first."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def draw_sheets(sheets: Sequence[Sheet], store: Store, group: int, processes: Processes) -> int:
    """Draw this process's share of what the store lacks; returns how many pictures that were."""
    drawn = 0
    for sheet in sheets:

        def pipeline(sheet: Sheet = sheet) -> StableDiffusionXLPipeline:
            loaded = load_pipeline(sheet.model, sheet.settings["scheduler"], sheet.settings["precision"])
            return loaded.to(processes.device)

        share = (processes.rank, processes.count)
        with progress_bar(f"{sheet.model.name}: drawing", len(sheet.drawings), processes) as progress:
            drawn += generate(pipeline, sheet.drawings, sheet.keys, sheet.settings, store, group, share, progress)
    return drawn
