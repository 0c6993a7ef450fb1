"""One `.safetensors` file in SDXL's original key layout, as the usual UIs and model sites have it.

The file holds weights only; configs, scheduler and tokenizers come from a pipeline of the same architecture.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import CLIPTokenizer

from mapolab.errors import UserError
from mapolab.hashes import file_hashes, remembered
from mapolab.models.noise_process import fault_of_file, stated_in_file
from mapolab.models.original_layout import NEEDLESS, PREFIXES, original_place, slots
from mapolab.models.parts import build, try_out
from mapolab.models.pipeline_folder import PipelineFolder
from mapolab.models.readers import opened
from mapolab.models.weights import Place, WeightFiles, check, fill, tensors

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class SingleFile:
    """name: the file's path. configs: the pipeline that lends what the file has not.

    All methods raise UserError for a file that cannot be read, is not whole, or is another model.
    """

    name: str
    configs: PipelineFolder

    def index(self) -> dict[str, Any]:
        """The lending pipeline's index, once the file itself is known to be SDXL."""
        if fault := fault_of_file(self.header, self.metadata) or _fault(self.header):
            raise UserError(f"model.pretrained={self.name} {fault}. Give an SDXL checkpoint.")
        return self.configs.index()

    def config(self, part: str) -> dict[str, Any]:
        """The lent config, but for what the file itself says of its noise process. Where it says nothing, a lent
        `epsilon` is only the usual case and leaves the choice to diffusion.prediction_type."""
        config = self.configs.config(part)
        if part != "scheduler":
            return config
        stated, lent = stated_in_file(self.name, self.header, self.metadata), config.get("prediction_type")
        if lent == "v_prediction" and stated.get("prediction_type") == "epsilon":
            raise UserError(
                f"model.pretrained={self.name} says that it predicts the noise (epsilon), but "
                f"model.single_file_config={self.configs.name} says {lent}. Name a pipeline of the same kind."
            )
        return config | {"prediction_type": lent if lent == "v_prediction" else None} | stated

    def tokenizer(self, part: str) -> CLIPTokenizer:
        """Lent."""
        return self.configs.tokenizer(part)

    def check(self, kind: type[nn.Module], part: str) -> None:
        """Raise UserError unless `load` can load the part."""
        model, place = self._empty(kind, part)
        check(model, self._weights(part), place)
        try_out(model, f"{part} of {self.configs.name}")

    def load(self, kind: type[Model], part: str, dtype: torch.dtype) -> Model:
        """A part in `dtype`, whatever the precision on disk; never holds two copies."""
        model, place = self._empty(kind, part)
        return fill(model, self._weights(part), dtype, place)

    def identity(self, part: str) -> list[str]:
        """The hash of a part's tensors, and `name:sha256` of the files that are lent to it."""
        if part not in PREFIXES:
            return self.configs.identity(part)
        self.index()
        digest = remembered(self.path, f"sha256 of {part}", lambda _: _digest(self._weights(part)))
        return [f"{part}:{digest}", *file_hashes([self.configs.config_file(part)])]

    @property
    def path(self) -> Path:
        return Path(self.name).expanduser()

    @cached_property
    def header(self) -> frozenset[str]:
        """The names of all tensors in the file."""
        with opened(self.path) as content:
            return frozenset(content.keys())

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the file says beside its tensors; empty if it says nothing."""
        with opened(self.path) as content:
            return content.metadata() or {}

    def _empty(self, kind: type[Model], part: str) -> tuple[Model, Place]:
        self.index()
        config = self.configs.config(part)
        model = build(kind, config, f"{part} of {self.configs.name}")
        try:
            return model, original_place(slots(part, config, model.state_dict()))
        except (KeyError, StopIteration):
            raise UserError(
                f"The config of {part} of {self.configs.name} is of another architecture than SDXL's, which single "
                "files have no names for. Give another model.single_file_config."
            ) from None

    def _weights(self, part: str) -> WeightFiles:
        return WeightFiles((self.path,), prefix=PREFIXES[part])


def _digest(weights: WeightFiles) -> str:
    """SHA-256 of the tensors of a part: names, formats, shapes and numbers, in whatever order the file has them."""
    found = {}
    for name, tensor in tensors(weights):
        if not NEEDLESS.fullmatch(name):
            numbers = hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy()).hexdigest()
            found[name] = [str(tensor.dtype), list(tensor.shape), numbers]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _fault(header: frozenset[str]) -> str | None:
    """Why a file with these tensors is no SDXL checkpoint; None if it is one."""
    has = {prefix: any(name.startswith(prefix) for name in header) for prefix in PREFIXES.values()}
    if not all(has.values()):
        if any(name.startswith("cond_stage_model.") for name in header):
            return "is a Stable Diffusion 1 or 2 checkpoint (it has one text encoder, under cond_stage_model)"
        if has[PREFIXES["unet"]] and any(name.startswith("conditioner.embedders.0.model.") for name in header):
            return "is the SDXL refiner (its only text encoder is the larger one)"
        if any(name.startswith(("down_blocks.", "unet.down_blocks.")) for name in header):
            return (
                "holds a UNet in diffusers' layout, which is given as a folder with its config.json: models=[{unet: "
                "<folder>}]"
            )
        lacking = next(prefix for prefix, there in has.items() if not there)
        return f"has no tensors under {lacking}, so it is no whole SDXL checkpoint in the original key layout"
    known = tuple(PREFIXES.values())
    strange = sorted(name for name in header if not name.startswith(known) and not NEEDLESS.fullmatch(name))
    if strange:
        others = f" and {len(strange) - 1} other tensors" if len(strange) > 1 else ""
        return f"holds {strange[0]}{others}, which no part of SDXL reads, so it is another kind of model"
    return None
