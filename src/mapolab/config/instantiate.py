"""Build what a config names by `_target_`, out of a short list.

Hydra's own `instantiate` calls any importable function, and its block list still lets through some that run code from
files (`torch.load(weights_only=False)`, `torch.hub.load`). A config is data that people copy from each other, so here
exactly these targets are built; to add one is to add a line.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError

# Each target with the extra of mapolab that brings its package, if it needs one.
OPTIMIZERS = {
    "torch.optim.AdamW": None,
    "transformers.optimization.Adafactor": None,
    "bitsandbytes.optim.AdamW8bit": "8bit",
    "torchao.optim._AdamW": "torchao",
}
LOGGERS = {
    "lightning.pytorch.loggers.TensorBoardLogger": "tensorboard",
    "lightning.pytorch.loggers.WandbLogger": "wandb",
}
ALLOWED = (*OPTIMIZERS, *LOGGERS)


def instantiate(settings: dict[str, Any], *arguments: Any, **keywords: Any) -> Any:
    """Call the target `settings["_target_"]` with `arguments`, the other settings and `keywords` (which win).

    Raises UserError for a target that is not allowed, a setting that the target does not have, or a package that is not
    installed.
    """
    name, options = _split(settings)
    target = _import(name)
    check_arguments(settings, *arguments, **keywords)
    try:
        return target(*arguments, **options | keywords)
    except ModuleNotFoundError as error:
        raise _not_installed(name, error) from error


def check_arguments(settings: dict[str, Any], *arguments: Any, **keywords: Any) -> None:
    """Raise what `instantiate` would for the target and its settings; imports the target, but builds nothing."""
    name, options = _split(settings)
    signature = inspect.signature(_import(name))
    known = [key for key, parameter in signature.parameters.items() if parameter.kind != inspect.Parameter.VAR_KEYWORD]
    try:
        signature.bind(*arguments, **options | keywords)
    except TypeError as error:
        unknown = [key for key in options if key not in known]
        hint = did_you_mean(unknown[0], known) if unknown else ""
        raise UserError(f"{name}: {error}.{hint} Its settings are {', '.join(known[len(arguments) :])}.") from None


def _split(settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The target's name, and the other settings. Raises UserError unless exactly this name is allowed."""
    name = settings.get("_target_")
    if name not in ALLOWED:
        raise UserError(f"_target_={name} is not among the classes that a config may build: {', '.join(ALLOWED)}.")
    return name, {key: value for key, value in settings.items() if key != "_target_"}


def _import(name: str) -> Callable[..., Any]:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise _not_installed(name, error) from error


def _not_installed(name: str, error: ModuleNotFoundError) -> UserError:
    extra = (OPTIMIZERS | LOGGERS)[name]
    fix = f"pip install 'mapolab[{extra}]'" if extra else f"pip install {error.name}"
    return UserError(
        f"{name} needs a package that is not installed ({' '.join(str(error).split())}). Install it: {fix}."
    )
