"""The settings that a LoRA file comes with: diffusers' metadata, or PEFT's adapter_config.json beside the file."""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import regex
from torch import nn

from mapolab.errors import UserError
from mapolab.models.lora_names import adaptable, both_names
from mapolab.models.readers import parse_settings
from mapolab.models.readers import read_settings as read_file
from mapolab.texts import brief

METADATA = "lora_adapter_metadata"
# PEFT's settings that decide what the file's tensors mean, all of them read below.
MEANING = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "modules_to_save")
# Those that say which layers have adapters, also read.
TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
# Those that the tensors show (DoRA, a bias), or that concern training and where the model lay.
SILENT = (
    "use_dora", "lora_bias", "lora_dropout", "init_lora_weights", "inference_mode", "task_type", "auto_mapping",
    "base_model_name_or_path", "revision", "peft_type", "peft_version", "fan_in_fan_out", "megatron_core",
    "megatron_config", "qalora_group_size", "loftq_config", "eva_config", "runtime_config",
)  # fmt: skip
LAYERS = "str", "list of str"
KINDS = {
    "rank_pattern": ("dict",), "alpha_pattern": ("dict",), "use_rslora": ("bool",), "bias": ("str",),
    "modules_to_save": ("list of str",), "target_modules": LAYERS, "exclude_modules": LAYERS, "layers_pattern": LAYERS,
    "layers_to_transform": ("int", "list of int"),
}  # fmt: skip
BIASES = (None, "none", "all", "lora_only")
PATTERN_LENGTH = 20_000
MATCHING_SECONDS = 5.0  # for all layers and patterns; a second at most in any LoRA that was trained
# Ways to start that leave the model's own weights as they are; the others need them changed before loading.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


@dataclass
class LoraSettings:
    """PEFT's LoraConfig of one model's adapters, as far as it says what the file's tensors mean. values: by its names,
    checked by `read_settings`. place: where they stand. seconds: what is left for matching their patterns."""

    values: dict[str, Any]
    place: Any
    seconds: float = field(default_factory=lambda: MATCHING_SECONDS)
    compiled: dict[str, Any] = field(default_factory=dict)

    @property
    def rslora(self) -> bool:
        return bool(self.values.get("use_rslora"))

    def rank_and_alpha(self, layer: str) -> tuple[int, float]:
        """Raises UserError for patterns that take too long."""
        return self._of(layer, "rank_pattern", "r"), self._of(layer, "alpha_pattern", "lora_alpha")

    def _of(self, layer: str, patterns: str, default: str) -> Any:
        """As PEFT's get_pattern_key."""
        for name in both_names(layer):
            for key, value in (self.values.get(patterns) or {}).items():
                if self._match(rf"(.*\.)?({key})$", name):
                    return value
        return self.values.get(default, 8)

    def targets(self, model: nn.Module) -> set[str]:
        """The layers that should have an adapter; none where the settings do not say. Raises UserError for patterns
        that take too long."""
        wanted = self.values.get("target_modules")
        if not wanted or wanted == "all-linear":
            return set()
        return {layer for layer in adaptable(model) if any(map(self._is_target, both_names(layer)))}

    def _is_target(self, name: str) -> bool:
        """As PEFT's check_target_module_exists."""
        wanted, modules = self.values["target_modules"], self.values.get("modules_to_save") or ()
        if self._is_named(self.values.get("exclude_modules") or (), name):
            return False
        if any(self._match(rf"(^|.*\.){module}($|\..*)", name) for module in modules):
            return False
        if isinstance(wanted, str) or name in wanted:
            return self._is_named(wanted, name)
        return self._is_named(wanted, name) and self._is_in_layers(name)

    def _is_in_layers(self, name: str) -> bool:
        numbers, patterns = self.values.get("layers_to_transform"), self.values.get("layers_pattern")
        if numbers is None or numbers == []:
            return True
        patterns = [patterns] if isinstance(patterns, str) and patterns else patterns
        before = [rf"(?:^|.*?\.){pattern}" for pattern in patterns] if patterns else [r".*?\.[^.]*"]
        found = next(filter(None, (self._match(rf"{one}\.(?P<index>\d+)\.", name) for one in before)), None)
        index = found["index"] if found else None  # or what a group of that name in the pattern found
        return bool(index) and index.isdecimal() and int(index) in (numbers if isinstance(numbers, list) else [numbers])

    def _is_named(self, named: str | Sequence[str], name: str) -> bool:
        if isinstance(named, str):
            return bool(self._match(rf"(?:{named})\Z", name))
        return any(name == one or name.endswith(f".{one}") for one in named)

    def _match(self, pattern: str, name: str) -> Any:
        """A pattern of the file may take longer than the world will stand, so that `re` cannot be asked."""
        started = time.monotonic()
        try:
            if pattern not in self.compiled:
                self.compiled[pattern] = regex.compile(pattern)
            return self.compiled[pattern].match(name, timeout=max(self.seconds, 0.001))
        except TimeoutError:
            raise UserError(
                f"The LoRA's settings in {self.place} have patterns that take longer than {MATCHING_SECONDS} seconds "
                f"to match, such as {brief(pattern)}. Write the layers' names in their place."
            ) from None
        except regex.error as error:
            raise UserError(
                f"The LoRA's settings in {self.place} have patterns that cannot be part of {brief(pattern)}: "
                f"{brief(error)}. Correct them."
            ) from None
        finally:
            self.seconds -= time.monotonic() - started

    def saved_parameters(self, model: nn.Module, layers: set[str]) -> set[str]:
        """The model's parameters that the file holds whole; layers: those with adapters."""
        modules = self.values.get("modules_to_save") or ()
        bias = self.values.get("bias") or "none"
        found = set()
        for name, _ in model.named_parameters():
            owner = name.rpartition(".")[0]
            saved = any(f".{owner}.".find(f".{module}.") >= 0 for module in modules)
            biased = bias == "all" and "bias" in name
            biased |= bias == "lora_only" and name.endswith(".bias") and owner in layers
            found |= {name} if saved or biased else set()
        return found


def read_settings(
    file: Path, metadata: dict[str, str], parts: set[str], peft_config: Path | None
) -> dict[str, LoraSettings]:
    """The settings of those of a file's parts that have some.

    peft_config: PEFT's file, where it belongs to this one. Raises UserError for what mapolab cannot do as they say.
    """
    place = peft_config or f"the metadata of {file}"
    try:
        given = read_file(peft_config) if peft_config else parse_settings(metadata.get(METADATA, "{}"))
    except ValueError as error:
        raise UserError(f"The LoRA's settings in {place} cannot be read ({error}). Fetch the LoRA again.") from None
    if "r" in given or peft_config:  # of one model alone
        return {part: _checked(given, place) for part in parts}
    found = {}
    for part in parts:
        own = {key.removeprefix(f"{part}."): value for key, value in given.items() if key.startswith(f"{part}.")}
        found |= {part: _checked(own, place)} if own else {}
    return found


def _checked(values: dict[str, Any], place: Any) -> LoraSettings:
    from peft import LoraConfig

    neutral = LoraConfig().to_dict()
    foreign = [
        f"{key}={value}"
        for key, value in values.items()
        if key not in (*MEANING, *TARGETS, *SILENT) and value and value != neutral.get(key)
    ]
    if values.get("peft_type", "LORA") != "LORA":
        foreign.append(f"peft_type={values['peft_type']}")
    if values.get("init_lora_weights") not in STARTS:
        foreign.append(f"init_lora_weights={values['init_lora_weights']}")
    if foreign:
        raise UserError(
            f"The LoRA's settings in {place} say {brief(', '.join(foreign))}, which mapolab does not do. Convert it to "
            "a plain LoRA (PEFT: path_initial_model_for_weight_conversion), or merge it elsewhere."
        )
    wrong = next((key for key, kinds in KINDS.items() if not _is_one(values.get(key), kinds)), None)
    if wrong or (wrong := "bias" if values.get("bias") not in BIASES else None):
        raise UserError(
            f"The LoRA's settings in {place} say {wrong}={brief(values[wrong])}, which PEFT does not write there. "
            "Correct it, or fetch the LoRA again."
        )
    numbers = {"r": values.get("r", 8), "lora_alpha": values.get("lora_alpha", 8)}
    for pattern in ("rank_pattern", "alpha_pattern"):
        numbers |= {f"{pattern} of {brief(key)}": value for key, value in (values.get(pattern) or {}).items()}
    for key, value in numbers.items():
        if not isinstance(value, int | float) or not math.isfinite(value) or value == 0:
            raise UserError(
                f"The LoRA's settings in {place} say {key}={brief(value)}, no number that can be. Correct it."
            )
    for pattern in _patterns(values):
        try:
            if len(pattern) > PATTERN_LENGTH:
                raise ValueError(f"it has more than {PATTERN_LENGTH} characters")
            re.compile(pattern)  # in PEFT's own language, of which `regex` has more
            regex.compile(pattern)
        except (re.error, regex.error, ValueError, OverflowError, RecursionError) as error:
            raise UserError(
                f"The LoRA's settings in {place} have the pattern {brief(pattern)}: {brief(error)}. Correct it."
            ) from None
    return LoraSettings(values, place)


def _is_one(value: Any, kinds: tuple[str, ...]) -> bool:
    """Whether a value is None or one of these kinds: `list of str` has texts alone."""
    if value is None:
        return True
    kind = type(value).__name__
    return kind in kinds or (kind == "list" and {f"list of {type(one).__name__}" for one in value} <= set(kinds))


def _patterns(values: dict[str, Any]) -> list[str]:
    """All regular expressions; a list of names is one only where PEFT takes it so."""
    found = [*(values.get("rank_pattern") or {}), *(values.get("alpha_pattern") or {})]
    for key in (*TARGETS, "modules_to_save"):
        value = values.get(key)
        if isinstance(value, str):
            found.append(value)
        elif key in ("layers_pattern", "modules_to_save"):
            found += value or []
    return found
