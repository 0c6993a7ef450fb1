"""How an evaluation draws and scores: what the command says, else what the runs say, else what is usual for SDXL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mapolab import files
from mapolab.config.ranges import check_values
from mapolab.diffusion.samplers import sampling_timesteps
from mapolab.errors import UserError
from mapolab.evaluation.models import EvaluatedModel
from mapolab.evaluation.prompt_table import PromptRow
from mapolab.evaluation.prompts import find_rows
from mapolab.evaluation.store import DRAWING
from mapolab.models.sdxl import SDXL

# For models that are no runs, and for runs whose configs lack a key. Size None: the model's own.
USUAL: dict[str, Any] = {
    "prompts": None,
    "split": None,
    "revision": None,
    "limit": None,
    "images_per_prompt": 1,
    "negative_prompt": "",
    "steps": 50,
    "guidance_scale": 5.0,
    "scheduler": "euler",
    "seed": 1234,
    "height": None,
    "width": None,
    "precision": "auto",
    "batch_size": 4,
    "target_style": None,
    "scorers": [],
}

# What decides the pictures of an evaluation, beside the model.
DRAWN_BY = (*DRAWING, "seed", "images_per_prompt", "prompt_count", "prompts_hash", "prompts")


def options_for(models: list[EvaluatedModel], given: dict[str, Any]) -> dict[str, Any]:
    """A value for every key of `USUAL`. Raises UserError where runs disagree on one that the command leaves open."""
    wanted = {key: given[key] for key in USUAL if given.get(key) is not None}
    runs = [model for model in models if model.run is not None]
    agreed: dict[str, Any] = {}
    for model in runs:
        own = {key: value for key, value in model.run.get("evaluation", {}).items() if key in USUAL}
        for key, value in own.items():
            if agreed.setdefault(key, value) != value and key not in wanted:
                raise UserError(
                    f"The runs were made with different evaluation settings: {key} is {agreed[key]} in "
                    f"{runs[0].folder} and {value} in {model.folder}. Say which: {key}=..."
                )
    options = USUAL | {key: value for key, value in agreed.items() if value is not None} | wanted
    if "prompts" not in wanted and options["prompts"]:
        check_saved_source(options["prompts"], "evaluation.prompts", runs[0].folder, "prompts")
    if not options["prompts"]:
        raise UserError(
            "There are no prompts to draw. Give prompts=<a .csv or .txt file>, or a set: prompts=partiprompts."
        )
    return options


def check_saved_source(source: str, key: str, run: Path, option: str) -> None:
    """Raise UserError where a run's config names what would be fetched from an address, or holds a `${...}`: a saved
    config, perhaps a stranger's, sends no request, and nothing in it is resolved.

    key: of the config. option: of the command, which may name it.
    """
    if "${" in source:
        raise UserError(
            f"{run / 'config.yaml'} has {source!r} for {key}. What a saved config interpolates is not resolved. Give "
            f"{option}=... yourself."
        )
    if "://" in source or "::" in source:
        raise UserError(
            f"{run / 'config.yaml'} names an address for {key}, {source}, and nothing is fetched only because a saved "
            f"config says so. If you trust it, say it yourself: {option}='{source}'."
        )


def check_settings(options: dict[str, Any], models: Iterable[SDXL], block: str = "") -> None:
    """Raise UserError for settings that cannot be drawn with these models as they say. Reads configs only.

    options: values for some keys of `USUAL`. block: what the keys stand under, such as `evaluation.`.
    """
    check_values({f"{block}{key}": value for key, value in options.items() if key in USUAL})
    options = USUAL | {key: value for key, value in options.items() if value is not None}
    if options["negative_prompt"] and options["guidance_scale"] == 1:
        raise UserError(
            f"{block}negative_prompt has no effect without guidance, which {block}guidance_scale=1 turns off. Give "
            f"{block}guidance_scale above 1, or no negative prompt."
        )
    for sdxl in dict.fromkeys(models):
        factor = sdxl.pixels_per_latent
        for key in ("height", "width"):
            if options[key] is not None and options[key] % factor:
                raise UserError(
                    f"{block}{key} is {options[key]}, but the VAE of {sdxl.pretrained} makes {factor} pixels of each "
                    f"latent. Give a multiple of {factor}."
                )
        sampling_timesteps(sdxl.load_sampler(options["scheduler"]), options["steps"], f"{block}steps")


def load_prompts(options: dict[str, Any], cache_folder: Path) -> list[PromptRow]:
    """The prompts, the first `limit` of them where that is set. Raises UserError where there are none or a set lacks
    some."""
    rows = find_rows(options["prompts"], options["split"], options["revision"], cache_folder)
    return rows[: options["limit"]]


def settings_of(options: dict[str, Any], prompts: list[str], models: list[EvaluatedModel], on_gpu: bool) -> dict:
    """All that decides what the pictures are, beside the model, and the style that they are judged by.

    Its hash names the evaluation's folder: a base that is judged by another style each time keeps them apart.
    """
    size = None
    if options["height"] is None or options["width"] is None:
        size = _own_size(models)
    precision = options["precision"]
    resolved = {
        "height": options["height"] or size,
        "width": options["width"] or size,
        "precision": ("float16" if on_gpu else "float32") if precision == "auto" else precision,
    }
    settings = {key: resolved.get(key, options.get(key)) for key in DRAWING}
    about = {"seed": options["seed"], "images_per_prompt": options["images_per_prompt"]}
    if options["target_style"]:
        about["target_style"] = options["target_style"]
    return settings | about | {"prompt_count": len(prompts), "prompts_hash": files.short_hash(prompts)}


def drawings_of(prompts: list[str], settings: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(prompt, seed, position) of every picture: all of a prompt's one after the other."""
    seeds = [settings["seed"] + extra for extra in range(settings["images_per_prompt"])]
    return [(prompt, seed, index) for index, prompt in enumerate(prompts) for seed in seeds]


def _own_size(models: list[EvaluatedModel]) -> int:
    """The size in pixels that all the models were made for. Raises UserError where they differ."""
    sizes = {model.name: _sample_pixels(model) for model in models}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise UserError(f"The models draw in different sizes ({told}). Give height= and width= for all.")
    return next(iter(sizes.values()))


def _sample_pixels(model: EvaluatedModel) -> int:
    return model.sdxl.parts.config("unet")["sample_size"] * model.sdxl.pixels_per_latent
