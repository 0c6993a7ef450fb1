"""The start-up checks of what a config builds by `_target_`: the optimizer and the logger."""

import math
from typing import Any

from mapolab.config.groups import settings_of
from mapolab.config.instantiate import LOGGERS, OPTIMIZERS, check_arguments, instantiate
from mapolab.config.objective_checks import is_number
from mapolab.errors import UserError

# What a logger may be told: names and words. The rest of what W&B takes includes the address that it sends its key to.
OF_LOGGERS = {
    "lightning.pytorch.loggers.TensorBoardLogger": ("name", "version", "sub_dir", "prefix", "default_hp_metric"),
    "lightning.pytorch.loggers.WandbLogger": (
        "project", "entity", "group", "job_type", "tags", "notes", "name", "offline", "mode", "prefix", "log_model",
    ),
}  # fmt: skip


def check_targets(config: dict[str, Any]) -> None:
    """Both classes are known, and their settings are of the right kind. Builds nothing."""
    optimizer, logger = config["optimizer"], config["logger"]
    if optimizer.get("_target_") not in OPTIMIZERS:
        target = optimizer.get("_target_")
        raise UserError(f"optimizer._target_={target} cannot be built. Choose one of {', '.join(OPTIMIZERS)}.")
    if logger and logger.get("_target_") not in LOGGERS:
        raise UserError(
            f"logger._target_={logger.get('_target_')} cannot be built. Choose one of {', '.join(LOGGERS)}."
        )
    rate = optimizer.get("lr")
    if not is_number(rate) or not 0 < rate < math.inf:
        raise UserError(f"optimizer.lr is {rate}; give a positive number, such as 1e-5.")
    usual = next(item for item in settings_of("optimizer").values() if item["_target_"] == optimizer["_target_"])
    for key, value in optimizer.items():
        _check_kind(f"optimizer.{key}", value, usual.get(key))
    if logger:
        _check_logger(logger)


def check_optimizer(optimizer: dict[str, Any]) -> None:
    """The class takes these settings, by its own ranges: it is built for one number. Imports torch."""
    import torch

    check_arguments(optimizer, "params")
    try:
        instantiate(optimizer, [torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError, AssertionError, IndexError) as error:
        settings = ", ".join(f"{key}={value}" for key, value in optimizer.items() if key != "_target_")
        raise UserError(f"{optimizer['_target_']} refuses its settings ({settings}): {error}") from None


def _check_kind(key: str, value: Any, usual: Any) -> None:
    """A value is of the kind of the one in conf/optimizer, where that has one. Numbers are finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key} is {value}; give a finite number.")
    if isinstance(usual, bool):
        if not isinstance(value, bool):
            raise UserError(f"{key} is {value!r}; give true or false.")
    elif is_number(usual):
        if not is_number(value):
            raise UserError(f"{key} is {value!r}; give a number, such as {usual}.")
    elif isinstance(usual, list) and not (
        isinstance(value, list) and len(value) == len(usual) and all(map(is_number, value))
    ):
        raise UserError(f"{key} is {value!r}; give {len(usual)} numbers, such as {usual}.")


def _check_logger(logger: dict[str, Any]) -> None:
    known = OF_LOGGERS[logger["_target_"]]
    for key, value in logger.items():
        if key == "_target_":
            continue
        if key not in known:
            raise UserError(f"logger.{key} is no setting that mapolab hands on. Its settings: {', '.join(known)}.")
        words = value if isinstance(value, list) and key == "tags" else [value]
        if not all(isinstance(word, str | int | float | None) for word in words):
            raise UserError(f"logger.{key} is {value}; give a word, or a number.")
        # TensorBoard makes folders of them, inside the run's.
        climbs = isinstance(value, str) and (value.startswith(("/", "~")) or ".." in value.split("/"))
        if climbs and key in ("name", "version", "sub_dir"):
            raise UserError(f"logger.{key} is {value}, which leaves the run's folder. Give a name.")
