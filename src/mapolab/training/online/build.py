"""From a run's config to the modules of a run that learns from its own pictures, and what is checked before that."""

from pathlib import Path
from typing import Any

from mapolab.data.records import Source
from mapolab.diffusion.policy import DDIMPolicy
from mapolab.files import short_hash
from mapolab.models.encoder import Encoder
from mapolab.models.precision import DTYPES
from mapolab.models.sdxl import SDXL
from mapolab.models.trained import build_reference, load_trained
from mapolab.training.build import empty_prompt, reference_kind
from mapolab.training.data import cache_folder
from mapolab.training.online.datamodule import RolloutDataModule
from mapolab.training.online.module import PolicyModule
from mapolab.training.online.prompts import PromptList, captions
from mapolab.training.online.rewards import Rewards


def check_drawing(config: dict[str, Any], sdxl: SDXL) -> None:
    """Raise UserError for denoising steps that the model does not have, and for scorers that cannot be loaded."""
    rollout = config["rollout"]
    DDIMPolicy.of(sdxl.load_scheduler(), rollout["steps"], rollout["eta"])
    Rewards.of(rollout, "cpu")  # the run builds them again on its own device


def build_online(
    config: dict[str, Any], objective: Any, source: Source | PromptList, sdxl: SDXL, folder: Path
) -> tuple[PolicyModule, RolloutDataModule]:
    """The modules of a run in `folder`, with the weights it starts from. Raises UserError for what cannot be loaded."""
    model, data, rollout, seed = config["model"], config["data"], config["rollout"], config["seed"]
    prompts = captions(source, cache_folder(config) / "captions")
    trained = load_trained(sdxl, model, seed, config["trainer"]["precision"] == "64-true")
    reference = None
    if objective.needs_reference:
        reference = build_reference(reference_kind(config), trained.unet, DTYPES[model["reference_dtype"]], model)
    if model["compile"]:
        trained.unet.compile_repeated_blocks()
    module = PolicyModule(
        trained,
        sdxl.load_scheduler(),
        objective,
        seed=seed,
        optimizer=config["optimizer"],
        schedule=config["schedule"],
        rollout=rollout,
        prompts=prompts,
        resolution=data["resolution"],
        encoder=Encoder.load(sdxl),
        folder=folder,
        reference=reference,
        empty_prompt=empty_prompt(sdxl) if rollout["guidance_scale"] != 1 else None,
    )
    accumulation = config["trainer"]["gradient_accumulation"]
    return module, RolloutDataModule(rollout, seed, data["batch_size"], accumulation, short_hash(prompts))
