"""The block `rollout`, of methods that learn from pictures they draw themselves: its keys, and what must fit to it."""

import math
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from mapolab.errors import UserError

Config = dict[str, Any]
# What is said of pairs and would change nothing here, with the value that says so.
OF_PAIRS = {
    "data.ties": "drop",
    "data.weights": "none",
    "data.aspect_buckets": False,
    "data.micro_conditioning": "fixed",
    "data.prompt_dropout": 0.0,
    "data.label_flip_probability": 0.0,
    "data.label_noise_probability": 0.0,
    "diffusion.noise": "gaussian",
    "diffusion.timestep_range": None,
    "diffusion.timestep_weighting": "none",
    "trainer.validate_every": None,
}


@dataclass
class Rollout:
    steps: int = MISSING
    eta: float = MISSING
    guidance_scale: float = MISSING
    samples: int = MISSING
    images_per_prompt: int = MISSING
    inner_epochs: int = MISSING
    timestep_fraction: float = MISSING
    rewards: Any = MISSING  # a list of names, or of mappings with scorer and weight
    target_style: str | None = MISSING
    per_prompt_buffer: int | None = MISSING
    per_prompt_minimum: int = MISSING
    prompts: str | None = MISSING


def trained_steps(rollout: Config) -> int:
    """How many of a picture's denoising steps each pass trains."""
    return int(rollout["steps"] * rollout["timestep_fraction"] + 1e-9)


def passes_per_step(config: Config) -> int:
    """Forward passes that an optimizer step accumulates on each device; with a rollout, one for each trained step."""
    accumulation = config["trainer"]["gradient_accumulation"]
    return accumulation * trained_steps(config["rollout"]) if config["rollout"] else accumulation


def draws_itself(config: Config) -> bool:
    """Whether the objective learns from pictures that the model draws. Imports torch."""
    from mapolab import objectives

    return objectives.build(**config["objective"]).learns_from == "samples"


def check_rollout(config: Config) -> None:
    """Raise UserError for what does not fit together. Reads no file; imports torch."""
    rollout, name = config["rollout"], config["objective"]["name"]
    if not draws_itself(config):
        if rollout is not None:
            raise UserError(
                f"rollout says how pictures are drawn in training, but {name} learns from given pairs. Use "
                "objective=ddpo, or leave the block out: rollout=null."
            )
        return
    if rollout is None:
        raise UserError(
            f"{name} learns from pictures that it draws, and nothing says how: rollout is null. Choose it as a group, "
            f"objective={name} (in an experiment: override /objective: {name}), which brings conf/sampling/ddim.yaml."
        )
    _check_numbers(rollout)
    _check_size(config)
    check_rewards(rollout["rewards"])
    _check_training(config, name)


def _check_numbers(rollout: Config) -> None:
    if not 0 < rollout["eta"] <= 1:
        raise UserError(
            f"rollout.eta is {rollout['eta']}; give a number above 0, to 1. Without noise a step has no probability, "
            "and nothing could be learned from it."
        )
    if not 0 < rollout["timestep_fraction"] <= 1 or trained_steps(rollout) < 1:
        raise UserError(
            f"rollout.timestep_fraction is {rollout['timestep_fraction']} of {rollout['steps']} steps; give a number "
            "above 0, to 1, that leaves at least one step."
        )
    buffer, least = rollout["per_prompt_buffer"], rollout["per_prompt_minimum"]
    if buffer is not None and buffer < least:
        raise UserError(
            f"rollout.per_prompt_buffer keeps {buffer} rewards a prompt, so there are never the {least} that "
            "rollout.per_prompt_minimum asks for. Raise the one, lower the other, or set the buffer to null."
        )


def _check_size(config: Config) -> None:
    """A round is whole optimizer steps, as far as the number of processes is known."""
    from mapolab.config.identity import samples_per_step

    if (step := samples_per_step(config)) is not None:
        check_samples(config["rollout"]["samples"], step)


def check_samples(samples: int, per_step: int) -> None:
    """Raise UserError unless a round's pictures are a multiple of an optimizer step's."""
    if samples % per_step:
        raise UserError(
            f"rollout.samples is {samples}, but an optimizer step takes {per_step} pictures (data.batch_size x "
            "trainer.gradient_accumulation x processes), and a round is whole steps. Give a multiple, such as "
            f"rollout.samples={max(1, round(samples / per_step)) * per_step}."
        )


def named_reward(entry: Any) -> tuple[Any, float]:
    """(the scorer as `evaluation.scorers` names one, its weight) of an entry of `rollout.rewards`."""
    if isinstance(entry, dict) and "scorer" in entry:
        return entry["scorer"], entry.get("weight", 1.0)
    return entry, 1.0


def reward_label(entry: Any) -> str:
    """`pickscore`, or `2*pickscore`: a reward in one word."""
    scorer, weight = named_reward(entry)
    name = scorer if isinstance(scorer, str) else ",".join(str(value) for value in scorer.values())
    return name if weight == 1 else f"{weight:g}*{name}"


def check_rewards(rewards: Any) -> None:
    """Raise UserError unless this is a list of scorers that exist, with weights."""
    from mapolab.evaluation.scorers.registry import check_names

    if not isinstance(rewards, list) or not rewards:
        raise UserError(f"rollout.rewards is {rewards}. Give a list of scorers, such as rollout.rewards=[jpeg_size].")
    for entry in rewards:
        scorer, weight = named_reward(entry)
        if scorer is not entry and (unknown := entry.keys() - {"scorer", "weight"}):
            raise UserError(
                f"rollout.rewards: {min(unknown)} is no key of a reward. It has scorer and weight; settings belong to "
                "the scorer: {scorer: {_target_: jpeg_size, larger_is_better: true}, weight: 2.0}."
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or not weight:
            raise UserError(f"rollout.rewards: the weight of {scorer} is {weight}; give a number other than 0.")
        check_names([scorer], "rollout.rewards")


def _check_training(config: Config, name: str) -> None:
    """The update must see the same model that drew the pictures."""
    lora, strategy = config["model"]["lora"], config["strategy"]["strategy"]
    if lora is not None and lora["dropout"]:
        raise UserError(
            f"{name} compares each step's probability before and after an update, but with model.lora.dropout="
            f"{lora['dropout']} it differs from pass to pass without any. Set model.lora.dropout=0."
        )
    for key, off in (("text_encoders", "false"), ("learned_token", "null")):
        if lora is not None and lora[key]:
            raise UserError(f"{name} trains the UNet alone. Set model.lora.{key}={off}.")
    if strategy in ("fsdp", "deepspeed"):
        raise UserError(
            f"{name} draws pictures with the whole UNet between updates, which {strategy} divides over the devices. "
            "Use strategy=ddp; model=sdxl_lora needs the least memory."
        )
    for key, neutral in OF_PAIRS.items():
        block, _, leaf = key.partition(".")
        if config[block][leaf] != neutral:
            raise UserError(
                f"{key}={config[block][leaf]} is about given pairs and would change nothing for {name}, which learns "
                f"from pictures that it draws. Set {key}={'null' if neutral is None else str(neutral).lower()}."
            )
