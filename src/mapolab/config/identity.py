"""What makes two runs the same run, and the folder that follows from it."""

from pathlib import Path
from typing import Any

from mapolab.files import short_hash

# Keys that change where a run is, how it is watched or what is measured afterwards, but not the weights it ends with.
# Of learning_rates and objective_betas only those in optimizer.lr and objective.beta count.
OUTSIDE = (
    "output_root", "output_dir", "logger", "evaluation", "learning_rates", "objective_betas", "preemption",
    "from_environment",
)  # fmt: skip
OUTSIDE_OF_DATA = (
    "num_workers", "cache_folder", "download_cache_gb", "max_broken_share", "allow_overlap", "validation_path",
    "validation_split",
)  # fmt: skip
OUTSIDE_OF_TRAINER = (
    "progress", "log_every", "checkpoint_every", "keep_checkpoints", "checkpoint_in_background", "validate_every",
    "validation_pairs", "keep_best",
)  # fmt: skip

# Keys that runs from earlier versions do not have, with what those did.
EARLIER = {"data.micro_conditioning": "own"}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved train config that decides the run's weights.

    What is as it was before a key existed is left out, so that a run from before it and one that asks for the same
    are one run.
    """
    kept = _without(config, OUTSIDE)
    if kept.get("rollout") is None:
        kept.pop("rollout", None)
    kept["data"] = _without(config["data"], OUTSIDE_OF_DATA)
    if kept["data"].get("micro_conditioning") == EARLIER["data.micro_conditioning"] or not _sees_pairs(config):
        kept["data"].pop("micro_conditioning", None)
    kept["trainer"] = _without(config["trainer"], OUTSIDE_OF_TRAINER)
    if (step := samples_per_step(config)) is not None:
        # How a step's samples are dealt out to processes and forward passes does not change which they are, so a run
        # may go on with another number of devices.
        del kept["strategy"]
        kept["data"] = _without(kept["data"], ("batch_size",))
        kept["trainer"] = _without(kept["trainer"], ("gradient_accumulation",)) | {"samples_per_step": step}
    return _plain_numbers(kept)


def _sees_pairs(config: dict[str, Any]) -> bool:
    """Whether the run learns from given images, and not from its own or from the artwork."""
    return config.get("rollout") is None and config.get("task", "align") == "align"


def as_earlier(config: dict[str, Any]) -> dict[str, Any]:
    """The config with what earlier versions did where they had no choice."""
    return config | {"data": config["data"] | {"micro_conditioning": EARLIER["data.micro_conditioning"]}}


def samples_per_step(config: dict[str, Any]) -> int | None:
    """Pairs (with a rollout: pictures) in an optimizer step over all processes; None where the number of devices is
    left to Lightning."""
    devices = config["strategy"]["devices"]
    if devices == "auto":
        return None
    local = len(devices) if isinstance(devices, list) else devices
    processes = local * config["strategy"]["num_nodes"]
    return config["data"]["batch_size"] * config["trainer"]["gradient_accumulation"] * processes


def run_name(config: dict[str, Any]) -> str:
    """`<objective>-seed<seed>-<hash>`: a stable name, so that the same command finds its run again.

    It never holds the values of overrides, which may contain '/' or be too long for a folder's name. A tiny_base run
    has no objective and is named after its task.
    """
    method = config["task"] if config["task"] == "tiny_base" else config["objective"]["name"]
    return f"{method}-seed{config['seed']}-{short_hash(identity(config))}"


def run_folder(config: dict[str, Any]) -> Path:
    """The folder of a run: `output_dir`, or `<output_root>/<name>/<run name>`."""
    if config["output_dir"]:
        return Path(config["output_dir"])
    return Path(config["output_root"]) / config["name"] / run_name(config)


def _without(block: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key not in keys}


def _plain_numbers(value: Any) -> Any:
    """8.0 as 8, at any depth: `objective.beta=8` and `objective.beta=8.0` are one run."""
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
