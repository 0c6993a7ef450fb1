"""What a LoRA's tensors mean, as PEFT, diffusers, kohya's programs and ComfyUI write them: all of them, or a refusal.

An adapter adds `scale * up @ down` to a layer's weight. The scale is alpha / rank, or alpha / sqrt(rank) by rsLoRA, and
alpha stands in a tensor of the file, in its metadata, in PEFT's adapter_config.json, or nowhere: then it is the rank.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from mapolab.errors import UserError
from mapolab.models.lora_names import (
    FAMILIES,
    OTHER_KINDS,
    Layer,
    adapter_key,
    adapter_shapes,
    bare_names,
    both_names,
    full_names,
    trimmed,
)
from mapolab.models.lora_settings import LoraSettings, read_settings

PEFT_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """down: (rank, in) or (rank, in, height, width). up: (out, rank) or (out, rank, 1, 1).

    bias: that of `up`, (out,), or None. magnitude: DoRA's, (out,) or (1, out, 1, 1), or None.
    """

    down: Tensor
    up: Tensor
    scale: float
    bias: Tensor | None = None
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class Lora:
    """What a file holds. adapters: by (part, layer). parameters: by (part, name), those that PEFT saves whole, which
    are biases and `modules_to_save`."""

    adapters: dict[Layer, Adapter]
    parameters: dict[Layer, Tensor]


# The tensors of one adapter by kind: down, up, bias, magnitude, alpha.
Group = dict[str, Tensor]


@dataclass
class LoraReader:
    """Reads a LoRA's file for these models. base: their pipeline's name. tensors, metadata: what is in the file."""

    file: Path
    base: str
    models: dict[str, nn.Module]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def read(self) -> Lora:
        """Raises UserError as `lora_files.read_lora` says."""
        self._check_values()
        groups, stems = self._groups()
        places = self._places(groups)
        settings = read_settings(
            self.file, self.metadata, {part for part, _ in places.values()}, self._peft_config(groups)
        )
        rest = [key for key in self.tensors if key not in stems]
        parameters = self._parameters(rest, set(places.values()), settings)
        if lost := [key for key in self.tensors if stems.get(key) not in places and key not in parameters]:
            raise self._misfit(f"{len(lost)} of its {len(self.tensors)} tensors have no place there: {_some(lost)}.")
        adapters: dict[Layer, Adapter] = {}
        for stem, (part, layer) in places.items():
            if (part, layer) in adapters:
                raise self._refusal(f"has two adapters of one layer, {part}.{layer}. Give a file with one.")
            adapters[part, layer] = self._adapter(stem, groups[stem], (part, layer), settings.get(part))
        self._check_whole(adapters, settings)
        return Lora(adapters, {place: self.tensors[key] for key, place in parameters.items()})

    def _refusal(self, text: str) -> UserError:
        return UserError(f"The LoRA {self.file} {text}")

    def _misfit(self, text: str) -> UserError:
        return self._refusal(
            f"does not fit {self.base}: {text} Give a LoRA of this model, or name the base that it was trained on "
            "(pretrained: ...)."
        )

    def _check_values(self) -> None:
        if not self.tensors:
            raise self._refusal("holds no tensor. Fetch it again.")
        for kind, pattern in OTHER_KINDS.items():
            if keys := [key for key in self.tensors if re.fullmatch(f".+{pattern}", key)]:
                raise self._refusal(
                    f"holds {kind} ({_some(keys)}), which mapolab does not read. Merge it into a checkpoint elsewhere "
                    "and give that."
                )
        for prefixes, family in FAMILIES.items():
            if keys := [key for key in self.tensors if key.removeprefix(PEFT_PREFIX).startswith(prefixes)]:
                raise self._misfit(f"it is one for {family} ({_some(keys)}).")
        for key, tensor in self.tensors.items():
            if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
                raise self._refusal(f"has values in {key} that are not finite numbers. Fetch or train it again.")

    def _groups(self) -> tuple[dict[str, Group], dict[str, str]]:
        """The adapters' tensors by stem, and the stem of each of their keys."""
        groups: dict[str, Group] = defaultdict(dict)
        stems: dict[str, str] = {}
        names: set[str | None] = set()
        for key, tensor in self.tensors.items():
            if (found := adapter_key(key.removeprefix(PEFT_PREFIX))) is None:
                continue
            stems[key], kind, name = found
            if kind != "alpha":
                names.add(name)
            if kind in groups[stems[key]] and len(names) == 1:
                raise self._refusal(f"has {key} twice, under two names. Give a file with one adapter.")
            groups[stems[key]][kind] = tensor
        if len(names) > 1:
            told = ", ".join(sorted(name or "one without a name" for name in names))
            raise self._refusal(f"holds {len(names)} adapters ({told}). Save each into a file of its own.")
        return dict(groups), stems

    @cached_property
    def _named(self) -> dict[str, Layer]:
        return full_names(self.models)

    def _places(self, groups: dict[str, Group]) -> dict[str, Layer]:
        """(part, layer) of the stems that are known, by their full names or, in a file without any, by the bare ones
        of one model."""
        if found := {stem: self._named[stem] for stem in groups if stem in self._named}:
            return found
        options = []
        for part, model in self.models.items():
            bare = bare_names(part, model)
            options.append({stem: (part, bare[stem]) for stem in groups if stem in bare})
        best = [option for option in options if len(option) == max(map(len, options))]
        if len(best) > 1 and best[0]:  # the two text encoders: their layers have the same names
            fitting = [
                one for one in best if all(self._fault(groups[stem], place) is None for stem, place in one.items())
            ]
            if len(fitting) > 1:
                raise self._refusal(
                    f"does not say which text encoder it is for, and fits both ({_some(groups)}). Put text_encoder. or "
                    "text_encoder_2. before its keys."
                )
            best = fitting or best
        return best[0]

    def _peft_config(self, groups: dict[str, Group]) -> Path | None:
        """PEFT's config beside the file, where it is of this file: no model's name stands before the layers."""
        config = self.file.parent / PEFT_CONFIG
        if any(stem in self._named for stem in groups):
            return None
        if not config.is_file() and any(key.startswith(PEFT_PREFIX) for key in self.tensors):
            raise self._refusal(
                f"was written by PEFT ({PEFT_PREFIX}...), which says alpha in {PEFT_CONFIG}. Put that file beside it."
            )
        return config if config.is_file() else None

    def _parameters(self, rest: list[str], places: set[Layer], settings: dict[str, LoraSettings]) -> dict[str, Layer]:
        """(part, name) of the keys that are whole parameters. All must be there that the settings speak of."""
        found: dict[str, Layer] = {}
        for part, own in settings.items():
            model = self.models[part]
            wanted = own.saved_parameters(model, {layer for other, layer in places if other == part})
            for key in rest:
                bare = key.removeprefix(PEFT_PREFIX).removeprefix(f"{part}.").replace(".base_layer.", ".")
                for name in wanted.intersection(both_names(bare)):
                    if model.get_parameter(name).shape == self.tensors[key].shape:
                        found[key] = part, name
            if lacking := wanted - {name for other, name in found.values() if other == part}:
                raise self._refusal(f"lacks {_some(lacking)}, or has it in another shape. Fetch it again.")
        return found

    def _adapter(self, stem: str, group: Group, place: Layer, settings: LoraSettings | None) -> Adapter:
        if not {"down", "up"} <= set(group):
            raise self._refusal(f"is not whole: of {stem} it has only {', '.join(sorted(group))}. Fetch it again.")
        if fault := self._fault(group, place):
            raise self._misfit(f"{stem} {fault}.")
        rank = len(group["down"])
        shapes = adapter_shapes(self.models[place[0]].get_submodule(place[1]), rank)
        scale = self._scale(stem, group, place[1], rank, settings)
        return Adapter(
            scale=scale, **{kind: group[kind].reshape(shape) for kind, shape in shapes.items() if kind in group}
        )

    def _fault(self, group: Group, place: Layer) -> str | None:
        """What is wrong with an adapter's shapes, or None. Ones at the end do not count: a linear layer is a 1x1
        convolution."""
        if "down" not in group:
            return None
        rank = group["down"].shape[0] if group["down"].ndim else 0
        if rank == 0:
            return "has rank 0"
        for kind, shape in adapter_shapes(self.models[place[0]].get_submodule(place[1]), rank).items():
            if kind in group and trimmed(group[kind].shape) != trimmed(shape):
                return f"has a {kind} of shape {tuple(group[kind].shape)}, not {shape}"
        return None

    def _scale(self, stem: str, group: Group, layer: str, rank: int, settings: LoraSettings | None) -> float:
        alpha = None
        if "alpha" in group:
            alpha = group["alpha"].item() if group["alpha"].numel() == 1 else 0.0
            if alpha == 0:
                raise self._refusal(f"has an alpha for {stem} that is 0 or no single number. Correct it.")
        if settings is None:
            return 1.0 if alpha is None else alpha / rank
        said_rank, said_alpha = settings.rank_and_alpha(layer)
        if rank != said_rank or alpha not in (None, said_alpha):
            raise self._refusal(
                f"has rank {rank} and alpha {alpha} in {stem}, but its settings say {said_rank} and {said_alpha}. They "
                "are of another file, or one of the two is changed."
            )
        return said_alpha / (math.sqrt(rank) if settings.rslora else rank)

    def _check_whole(self, adapters: dict[Layer, Adapter], settings: dict[str, LoraSettings]) -> None:
        """PEFT has DoRA and biases for all of a model's adapters or for none; settings name the layers."""
        for part, model in self.models.items():
            mine = {layer: adapter for (other, layer), adapter in adapters.items() if other == part}
            for kind in ("magnitude", "bias"):
                without = [layer for layer, adapter in mine.items() if getattr(adapter, kind) is None]
                if 0 < len(without) < len(mine):
                    raise self._refusal(f"has a {kind} for some layers and none for {_some(without)}. Fetch it again.")
            if part in settings and (lacking := settings[part].targets(model) - set(mine)):
                raise self._refusal(
                    f"lacks adapters that its settings speak of, those of {_some(lacking)}. Fetch it again."
                )


def _some(keys: Iterable[str]) -> str:
    """Three of the keys, and how many more there are."""
    keys = sorted(keys)
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
