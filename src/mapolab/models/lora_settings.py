"""The settings that a LoRA file comes with: diffusers' metadata, or PEFT's adapter_config.json beside the file."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mapolab.errors import UserError
from mapolab.models.lora_names import adaptable, both_names

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
# Ways to start that leave the model's own weights as they are; the others need them changed before loading.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class LoraSettings:
    """PEFT's LoraConfig of one model's adapters, as far as it says what the file's tensors mean. values: by its names,
    checked by `read_settings`."""

    values: dict[str, Any]

    @property
    def rslora(self) -> bool:
        return bool(self.values.get("use_rslora"))

    def rank_and_alpha(self, layer: str) -> tuple[int, float]:
        return self._of(layer, "rank_pattern", "r"), self._of(layer, "alpha_pattern", "lora_alpha")

    def _of(self, layer: str, pattern: str, default: str) -> Any:
        from peft.utils.other import get_pattern_key

        patterns = self.values.get(pattern) or {}
        keys = (get_pattern_key(patterns, name) for name in both_names(layer))
        return next((patterns[key] for key in keys if key in patterns), self.values.get(default, 8))

    def targets(self, model: nn.Module) -> set[str]:
        """The layers that should have an adapter; none where the settings do not say."""
        from peft import LoraConfig
        from peft.tuners.tuners_utils import check_target_module_exists

        named = {key: self.values.get(key) for key in (*TARGETS, "modules_to_save")}
        if not named["target_modules"] or named["target_modules"] == "all-linear":
            return set()
        config = LoraConfig(**named)
        return {
            layer
            for layer in adaptable(model)
            if any(check_target_module_exists(config, name) for name in both_names(layer))
        }

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
        given = json.loads(peft_config.read_text() if peft_config else metadata.get(METADATA, "{}"))
        if not isinstance(given, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError) as error:
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
            f"The LoRA's settings in {place} say {', '.join(foreign)}, which mapolab does not do. Convert it to a "
            "plain LoRA (PEFT: path_initial_model_for_weight_conversion), or merge it elsewhere."
        )
    numbers = {"r": values.get("r", 8), "lora_alpha": values.get("lora_alpha", 8)}
    for pattern in ("rank_pattern", "alpha_pattern"):
        numbers |= {f"{pattern} of {key}": value for key, value in (values.get(pattern) or {}).items()}
    for key, value in numbers.items():
        if not isinstance(value, int | float) or not math.isfinite(value) or value == 0:
            raise UserError(f"The LoRA's settings in {place} say {key}={value}, no number that can be. Correct it.")
    regular = [*(values.get("rank_pattern") or {}), *(values.get("alpha_pattern") or {})]
    for pattern in [*regular, *(values[key] for key in TARGETS if isinstance(values.get(key), str))]:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"The LoRA's settings in {place} have the pattern {pattern}: {error}. Correct it."
            ) from None
    return LoraSettings(values)
