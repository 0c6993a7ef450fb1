"""`mapolab plan`: parameters, operations, memory, disk and hours of a run, before it is queued."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mapolab.config.identity import samples_per_step
from mapolab.data.prepared.spec import DTYPES as CACHE_DTYPES
from mapolab.data.sources.open import open_source
from mapolab.errors import RunError, UserError
from mapolab.models.lora import check_targets
from mapolab.paths import resolve
from mapolab.plan.accelerators import find_accelerator
from mapolab.plan.measure import Measured, Step
from mapolab.plan.memory import Weights
from mapolab.plan.models import read_architecture
from mapolab.plan.rollout import RolloutStep, step_of
from mapolab.plan.strategies import peaks_by_strategy
from mapolab.plan.table import print_plan
from mapolab.training.data import cache_folder

# Rows and different prompts of data that is not at hand: Kirstain et al., 2305.01569, and the data set's page.
KNOWN_DATA = {"yuvalkirstain/pickapic_v2": (959_040, 58_960)}


def plan(config: dict[str, Any]) -> dict[str, Any]:
    """Print the plan; returns it. Raises UserError for a model, an accelerator or settings that do not fit together."""
    found = make_plan(config)
    if config["format"] == "json":
        json.dump(found, sys.stdout, indent=2)
        print()
    else:
        print_plan(found)
    return found


def make_plan(config: dict[str, Any]) -> dict[str, Any]:
    """The plan as plain values. Bytes are of one device, operations of one optimizer step over all devices."""
    model, data, trainer = config["model"], config["data"], config["trainer"]
    accelerator = _accelerator(config)
    architecture = read_architecture(model, config["diffusion"])
    if model["lora"]:
        check_targets(model["lora"], architecture.configs["unet"])
    step, world = step_of(config, architecture), _world_size(config)
    weights = Weights(config, step)
    measured = step.measure(data["batch_size"], model["gradient_checkpointing"])
    limit = accelerator["capacity_bytes"] - accelerator["reserve_bytes"]
    memory = _memory(step, weights, measured, world, limit)
    passes = trainer["gradient_accumulation"] * world
    pairs = data["batch_size"] * passes
    flops = {name: count * passes for name, count in measured.flops.items()}
    total = sum(flops.values())
    seconds = total / world / (accelerator["peak_tflops"] * 1e12 * accelerator["efficiency"])
    rows, prompts = (None, None) if isinstance(step, RolloutStep) else _rows(config)
    epochs = pairs * trainer["max_steps"] / rows if rows else None
    return {
        "config": _described(config, step, world) | {"architecture_assumed": architecture.assumed},
        "parameters": {"trained": weights.trained_count, "frozen": weights.frozen_count},
        "flops": {"per_step": total, "per_pair": total / pairs, "parts": flops},
        "memory": memory,
        "cache_bytes": _cache_bytes(config, step, rows, prompts),
        "round_bytes": step.bytes_of_a_round if isinstance(step, RolloutStep) else None,
        "data": {"rows": rows, "pairs_per_step": pairs, "epochs": epochs},
        "accelerator": accelerator,
        "fits": memory["peak_bytes"] <= limit,
        "steps": trainer["max_steps"],
        "seconds_per_step": seconds,
        "hours": seconds * trainer["max_steps"] / 3600,
    }


def _accelerator(config: dict[str, Any]) -> dict[str, Any]:
    """The named accelerator with what the config puts in place of the table's figures."""
    precision = config["trainer"]["precision"]
    found = find_accelerator(config["accelerator"], precision)
    return {
        "name": config["accelerator"],
        "peak_tflops": config["peak_tflops"] or (found.float32 if precision.endswith("true") else found.half),
        "efficiency": config["efficiency"],
        "capacity_bytes": int((config["memory_gib"] or found.memory) * 2**30),
        "reserve_bytes": int(config["reserve_gib"] * 2**30),
    }


def _memory(step: Step, weights: Weights, measured: Measured, world: int, limit: int) -> dict[str, Any]:
    """The peak by part, without and with checkpointing, under other strategies, and the batch that would fit."""
    config, reference = step.config, step.reference_kind
    batch, checkpointing = config["data"]["batch_size"], config["model"]["gradient_checkpointing"]
    static = weights.static(world, reference, config["strategy"])
    peak, other = static.peak(measured), static.peak(step.measure(batch, not checkpointing))
    parts = {key: value for key, value in asdict(static).items() if key not in ("host", "persistent_gradients")}
    beside = sum(parts.values())
    with_, without = (peak, other) if checkpointing else (other, peak)
    per_pair = max(1.0, (measured.activations - weights.half_copies) / batch)
    guess = int(1.05 * (batch + (limit - static.lasting - measured.activations) / per_pair))
    return {
        "peak_bytes": peak,
        "parts": parts | {"activations": peak - beside},
        "activations_with_checkpointing": with_ - beside,
        "activations_without_checkpointing": without - beside,
        "host_bytes": static.host,
        "by_strategy": peaks_by_strategy(weights, measured, reference, limit),
        "largest_batch": largest_batch(
            lambda pairs: static.peak(step.measure(pairs, checkpointing)), batch, peak, limit, guess
        ),
    }


def _described(config: dict[str, Any], step: Step, world: int) -> dict[str, Any]:
    """What the plan is of."""
    return {
        "model": config["model"]["pretrained"],
        "objective": config["objective"]["name"],
        "reference": step.reference_kind,
        "unit": "pictures" if isinstance(step, RolloutStep) else "pairs",
        "resolution": config["data"]["resolution"],
        "batch_size": config["data"]["batch_size"],
        "precision": config["trainer"]["precision"],
        "optimizer": config["optimizer"]["_target_"].split(".")[-1],
        "gradient_checkpointing": config["model"]["gradient_checkpointing"],
        "strategy": config["strategy"]["strategy"],
        "devices": world,
    }


def largest_batch(peak_of: Callable[[int], int], batch: int, peak: int, limit: int, guess: int) -> int:
    """The most pairs known to stay within `limit` bytes; `peak` is that of `batch`. 0: not even one fits.

    The peak is a maximum over moments that each grow linearly, so it is convex in the batch: between two traces the
    straight line lies above it, and a batch found on that line is safe. guess: where the limit is expected, so that
    one trace more is enough and the line is short.
    """
    if peak > limit:
        one = peak if batch == 1 else peak_of(1)
        return 0 if one > limit else _on_line((1, one), (batch, peak), limit)
    if guess <= batch:
        return batch
    other = peak_of(guess)
    return guess if other <= limit else _on_line((batch, peak), (guess, other), limit)


def _on_line(low: tuple[int, int], high: tuple[int, int], limit: int) -> int:
    """Where the line through two (pairs, bytes) meets the limit."""
    return low[0] + int((limit - low[1]) * (high[0] - low[0]) // (high[1] - low[1]))


def _world_size(config: dict[str, Any]) -> int:
    """Devices over all nodes; `auto` counts as one on each, since this machine may not be the one that trains."""
    local = config["data"]["batch_size"] * config["trainer"]["gradient_accumulation"]
    step = samples_per_step(config)
    return config["strategy"]["num_nodes"] if step is None else step // local


def _rows(config: dict[str, Any]) -> tuple[int | None, int | None]:
    """(rows, different prompts) of the data, as far as they can be known without fetching it."""
    data = config["data"]
    if config["rows"]:
        return config["rows"], None
    if data["path"] in KNOWN_DATA:
        return KNOWN_DATA[data["path"]]
    if not Path(resolve(data["path"])).exists():
        return None, None
    try:
        source = open_source(
            data["path"], data["split"], data["revision"], cache_folder(config), data["download_cache_gb"]
        )
    except (UserError, RunError):
        return None, None
    return sum(source.block_sizes), None


def _cache_bytes(config: dict[str, Any], step: Step, rows: int | None, prompts: int | None) -> int | None:
    """Of data.cache=true, at most: every image and, unless their number is known, every prompt counts as a new one."""
    data, configs = config["data"], step.architecture.configs
    if rows is None:
        return None
    width = CACHE_DTYPES[data["cache_dtype"]].itemsize
    side = data["resolution"] // 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    orientations = 2 if data["flip_probability"] > 0 else 1
    moments = 2 if data["vae_posterior"] == "sample" else 1
    latents = 2 * rows * orientations * moments * configs["vae"]["latent_channels"] * side * side
    first, second = configs["text_encoder"], configs["text_encoder_2"]
    embeds = (
        first["max_position_embeddings"] * (first["hidden_size"] + second["hidden_size"]) + second["projection_dim"]
    )
    return (latents + (prompts or rows) * embeds) * width
