"""The keys of every config and their types. What a key means and its default stand in conf/, beside its value.

Every field is MISSING here on purpose: a default in two places would drift apart.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from mapolab.config.environment import nodes_from_environment
from mapolab.config.suggest import did_you_mean_key
from mapolab.errors import UserError
from mapolab.paths import conf_folder


@dataclass
class Lora:
    rank: int = MISSING
    alpha: float = MISSING
    dropout: float = MISSING
    dora: bool = MISSING
    target_modules: list[str] = MISSING
    text_encoders: bool = MISSING
    text_encoder_learning_rate: float | None = MISSING
    text_encoder_target_modules: list[str] = MISSING


@dataclass
class Model:
    pretrained: str = MISSING
    revision: str | None = MISSING
    variant: str | None = MISSING
    single_file_config: str = MISSING
    vae: str | None = MISSING
    vae_revision: str | None = MISSING
    vae_dtype: str = MISSING
    encoder_dtype: str = MISSING
    trained_dtype: str = MISSING
    frozen_dtype: str = MISSING
    lora: Lora | None = MISSING
    reference: str = MISSING
    reference_dtype: str = MISSING
    gradient_checkpointing: bool = MISSING
    channels_last: bool = MISSING
    compile: bool = MISSING


@dataclass
class Diffusion:
    prediction_type: str = MISSING
    zero_terminal_snr: Any = MISSING  # true, false, or auto
    timestep_range: list[int] | None = MISSING
    timestep_weighting: str = MISSING
    min_snr_gamma: float = MISSING


@dataclass
class Data:
    path: str = MISSING
    split: str | None = MISSING
    revision: str | None = MISSING
    preferred_style: str | None = MISSING
    resolution: int = MISSING
    aspect_buckets: bool = MISSING
    batch_size: int = MISSING
    num_workers: int = MISSING
    shuffle_window: Any = MISSING  # auto, all, or a number of rows
    cache: bool = MISSING
    cache_folder: str | None = MISSING
    cache_dtype: str = MISSING
    download_cache_gb: float = MISSING
    vae_posterior: str = MISSING
    flip_probability: float = MISSING
    prompt_dropout: float = MISSING
    ties: str = MISSING
    weights: str = MISSING
    label_flip_probability: float = MISSING
    label_noise_probability: float = MISSING
    max_broken_share: float = MISSING
    allow_overlap: bool = MISSING


@dataclass
class Schedule:
    name: str = MISSING
    warmup_steps: int = MISSING


@dataclass
class Strategy:
    accelerator: str = MISSING
    strategy: str = MISSING
    devices: Any = MISSING  # a number, a list of device indices, or auto
    num_nodes: Any = MISSING  # a number, or auto until the environment has said it
    options: dict[str, Any] = MISSING  # open: the keys belong to the strategy's class


@dataclass
class Trainer:
    max_steps: int = MISSING
    gradient_accumulation: int = MISSING
    gradient_clip_norm: float | None = MISSING
    precision: str = MISSING
    checkpoint_every: int = MISSING
    keep_checkpoints: int = MISSING
    log_every: int = MISSING
    ema_decay: float | None = MISSING
    ema_on_cpu: bool = MISSING
    progress: str = MISSING


@dataclass
class Evaluation:
    prompts: str | None = MISSING
    split: str | None = MISSING
    revision: str | None = MISSING
    steps: int = MISSING
    guidance_scale: float = MISSING
    seed: int = MISSING
    batch_size: int = MISSING
    height: int = MISSING
    width: int = MISSING
    target_style: str | None = MISSING
    scorers: list[str] = MISSING


@dataclass
class Train:
    name: str = MISSING
    task: str = MISSING
    seed: int = MISSING
    output_root: str = MISSING
    output_dir: str | None = MISSING
    model: Model = field(default_factory=Model)
    diffusion: Diffusion = field(default_factory=Diffusion)
    data: Data = field(default_factory=Data)
    # Open blocks: their keys belong to the objective, the optimizer, the logger and the recipe that they name.
    objective: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    schedule: Schedule = field(default_factory=Schedule)
    strategy: Strategy = field(default_factory=Strategy)
    trainer: Trainer = field(default_factory=Trainer)
    evaluation: Evaluation = field(default_factory=Evaluation)
    learning_rates: dict[str, float] | None = MISSING
    logger: dict[str, Any] = MISSING
    tiny_base: dict[str, Any] | None = MISSING


@dataclass
class Prepare(Train):
    part: int = MISSING
    parts: int = MISSING
    verify: bool = MISSING


@dataclass
class Evaluate:
    run: str = MISSING
    prompts: str | None = MISSING
    split: str | None = MISSING
    revision: str | None = MISSING
    steps: int | None = MISSING
    guidance_scale: float | None = MISSING
    seed: int | None = MISSING
    batch_size: int | None = MISSING


@dataclass
class Compare:
    runs: Any = MISSING  # a list of folders, or one pattern
    output_dir: str | None = MISSING
    bootstrap_samples: int = MISSING
    confidence: float = MISSING
    seed: int = MISSING


SCHEMAS = {"train": Train, "prepare": Prepare, "evaluate": Evaluate, "compare": Compare}


def load(config: DictConfig, command: str) -> dict[str, Any]:
    """A composed config as a plain dict: interpolations resolved, every key known, set and of its type.

    Raises UserError, naming the key, for anything else.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise _not_set(error.full_key) from None
    except InterpolationResolutionError as error:
        raise UserError(
            f"{error.full_key} cannot be resolved: {_first_line(error)}. Correct the ${{...}} in it."
        ) from None
    config = typed(values, SCHEMAS[command])
    if config.get("strategy", {}).get("num_nodes") == "auto":
        config["strategy"]["num_nodes"] = nodes_from_environment()
    return config


def typed(values: dict[str, Any], schema: type, where: str = "") -> dict[str, Any]:
    """A block's values, each converted to its field's type in `schema` (a dataclass).

    where: the block's own key, for the messages. Raises UserError for an unknown key, a wrong type, a missing value.
    """
    prefix = f"{where}." if where else ""
    _reject_unknown(values, schema, prefix)
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(schema), values), throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise _not_set(prefix + error.full_key) from None
    except OmegaConfBaseException as error:
        raise UserError(
            f"{prefix}{error.full_key} has the wrong type. {_first_line(error)}. Correct the value."
        ) from None
    return merged


def known_keys(command: str) -> set[str]:
    """Every key of a command's config in dotted form, with those that conf/ gives to the open blocks."""
    return _dotted(SCHEMAS[command], "") | (_keys_of_open_blocks() if command in ("train", "prepare") else set())


def _reject_unknown(values: dict[str, Any], schema: type, prefix: str) -> None:
    types = get_type_hints(schema)
    for key, value in values.items():
        if key not in types:
            known = [prefix + name for name in types]
            hint = did_you_mean_key(f"{prefix}{key}", known)
            raise UserError(f"There is no key {prefix}{key}.{hint} Known here: {', '.join(sorted(known))}.")
        if (block := _block(types[key])) and isinstance(value, dict):
            _reject_unknown(value, block, f"{prefix}{key}.")


def _dotted(schema: type, prefix: str) -> set[str]:
    types = get_type_hints(schema)
    keys = {prefix + item.name for item in fields(schema)}
    return keys.union(*(_dotted(block, f"{prefix}{key}.") for key in types if (block := _block(types[key]))))


def _block(kind: Any) -> type | None:
    """The dataclass of a nested block, also of one that may be null; None for a single value."""
    return next((item for item in (kind, *get_args(kind)) if is_dataclass(item)), None)


def _keys_of_open_blocks() -> set[str]:
    files = [file for group in ("objective", "optimizer", "logger") for file in (conf_folder() / group).glob("*.yaml")]
    return {f"{file.parent.name}.{key}" for file in files for key in yaml.safe_load(file.read_text()) or {}}


def _not_set(key: str) -> UserError:
    return UserError(f"{key} has no value. Give it one: {key}=...")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
