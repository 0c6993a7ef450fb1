"""From a run's config to its LightningModule: what is trained, the reference, the encoders."""

from typing import Any

import torch
from torch import Tensor

from mapolab.diffusion.inversion import Inversion
from mapolab.diffusion.timesteps import Timesteps
from mapolab.models.encoder import Encoder
from mapolab.models.precision import DTYPES
from mapolab.models.prompts import encode_prompts
from mapolab.models.sdxl import SDXL
from mapolab.models.trained import build_reference, choose_reference, load_trained
from mapolab.training.module import AlignmentModule


def build_module(config: dict[str, Any], objective: Any, sdxl: SDXL) -> AlignmentModule:
    """The module of a run, with the weights it starts from. Raises UserError for weights that cannot be loaded."""
    model, data = config["model"], config["data"]
    trained = load_trained(sdxl, model, config["seed"], config["trainer"]["precision"] == "64-true")
    scheduler = sdxl.load_scheduler()
    # Before the checkpoint's weights are loaded: the reference is the model that the run started from.
    reference = None
    if objective.needs_reference:
        reference = build_reference(reference_kind(config), trained.unet, DTYPES[model["reference_dtype"]], model)
    if model["compile"]:
        trained.unet.compile_repeated_blocks()
    return AlignmentModule(
        trained,
        scheduler,
        objective,
        seed=config["seed"],
        optimizer=config["optimizer"],
        schedule=config["schedule"],
        timesteps=Timesteps.from_config(config["diffusion"], scheduler.config.num_train_timesteps),
        inversion=Inversion.from_config(config["diffusion"]),
        reference=reference,
        encoder=None if data["cache"] else Encoder.load(sdxl, with_text=trained.text is None),
        sample_posterior=data["vae_posterior"] == "sample",
        prompt_dropout=data["prompt_dropout"],
        empty_prompt=empty_prompt(sdxl) if data["prompt_dropout"] else None,
    )


def reference_kind(config: dict[str, Any]) -> str:
    """The kind of reference that a run of this config has, if its objective needs one."""
    return choose_reference(config["model"]["reference"], config["model"]["lora"] is not None)


def empty_prompt(sdxl: SDXL) -> tuple[Tensor, Tensor] | None:
    """Embeddings of no prompt; None: zeros, for pipelines that generate with those."""
    if sdxl.empty_prompt_is_zero:
        return None
    with torch.no_grad():
        return encode_prompts(sdxl.load_text_encoders(), [""])
