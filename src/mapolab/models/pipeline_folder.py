"""A pipeline in diffusers' layout, in a folder or on the hub, read part by part."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import CLIPTokenizer

from mapolab.errors import UserError
from mapolab.hashes import file_hashes
from mapolab.models.hub import fetch, is_hub_name
from mapolab.models.parts import TOKENIZERS, build, load_tokenizer, own_place, tokenizer_files, try_out
from mapolab.models.readers import read_settings
from mapolab.models.weights import WeightFiles, check, fill, find_weights
from mapolab.paths import resolve

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class PipelineFolder:
    """Nothing is fetched or loaded before it is asked for.

    name: a folder, a name on the hub, or `builtin:<name>`. key: the config key that names it, for the messages.
    Parts are named as in the folder, "" for one that holds a single model. All methods raise UserError if a part is
    missing, is not whole, or cannot be fetched.
    """

    name: str
    revision: str | None = None
    variant: str | None = None
    key: str = "model.pretrained"

    def index(self) -> dict[str, Any]:
        """model_index.json; empty if the folder has none."""
        file = self._folder("model_index.json") / "model_index.json"
        return read_settings(file) if file.is_file() else {}

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part."""
        return read_settings(self.config_file(part))

    def config_file(self, part: str) -> Path:
        """Where the config of a part is."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        file = self._folder(f"{part}/{name}".lstrip("/")) / part / name
        if not file.is_file():
            self.part_folder(part)  # says that all of it is missing
            raise UserError(f"{self.key}={self.name} has no {part or 'model'} ({name} is missing).")
        return file

    def tokenizer(self, part: str) -> CLIPTokenizer:
        return load_tokenizer(tokenizer_files(self.part_folder(part)))

    def check(self, kind: type[nn.Module], part: str) -> None:
        """Raise UserError unless `load` can load the part."""
        model = build(kind, self.config(part), self._called(part))
        check(model, self._weights(part), own_place(model))
        try_out(model, self._called(part))

    def load(self, kind: type[Model], part: str, dtype: torch.dtype) -> Model:
        """A part in `dtype`, whatever the precision on disk; never holds two copies."""
        model = build(kind, self.config(part), self._called(part))
        return fill(model, self._weights(part), dtype, own_place(model))

    def identity(self, part: str) -> list[str]:
        """`name:sha256` of every file that is read of a part, and of no other."""
        if part in TOKENIZERS:
            return file_hashes(tokenizer_files(self.part_folder(part)))
        weights = self._weights(part)
        read = [self.config_file(part), *weights.files, *([weights.index] if weights.index else [])]
        return file_hashes(sorted(read))

    def _weights(self, part: str) -> WeightFiles:
        stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        try:
            return find_weights(self.part_folder(part), stem, self.variant)
        except UserError as error:
            raise UserError(f"The {self._called(part)} cannot be loaded: {error}") from None

    def _called(self, part: str) -> str:
        return f"{part or 'model'} of {self.name}"

    def part_folder(self, part: str) -> Path:
        """Where a part's files are, fetched if they were not."""
        folder = self._folder(part) / part
        if not folder.is_dir():
            raise UserError(f"{self.key}={self.name} has no folder {part}; it is not a whole SDXL pipeline.")
        return folder

    def _folder(self, part: str) -> Path:
        """The folder that holds `part`: the pipeline's own, or the hub's snapshot of it with that part fetched."""
        local = Path(resolve(self.name))
        if local.is_dir():
            return local
        if not is_hub_name(self.name):
            raise UserError(f"{self.key}={self.name} is neither a folder nor a name on the hub (owner/name).")
        return fetch(self.name, self.revision, self._wanted(part), self.variant, self.key)

    def _wanted(self, part: str) -> list[str]:
        """The hub's files of one part: its config, its vocabulary, its weights in the chosen variant."""
        if part.endswith(".json"):
            return [part]
        weights = f"*.{self.variant}*.safetensors" if self.variant else "*.safetensors"
        return [f"{part}/{pattern}".lstrip("/") for pattern in ("*.json", "*.txt", weights)]
