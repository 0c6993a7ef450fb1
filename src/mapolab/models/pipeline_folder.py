"""A pipeline in diffusers' layout, in a folder or on the hub, read part by part."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin

from mapolab.errors import UserError
from mapolab.files import read_json, sha256
from mapolab.models.hub import fetch, is_hub_name
from mapolab.models.weights import fill
from mapolab.paths import resolve

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class PipelineFolder:
    """Nothing is fetched or loaded before it is asked for.

    name: a folder, a name on the hub, or `builtin:<name>`. key: the config key that names it, for the messages.
    All methods raise UserError if a part is missing or cannot be fetched.
    """

    name: str
    revision: str | None = None
    variant: str | None = None
    key: str = "model.pretrained"

    def index(self) -> dict[str, Any]:
        """model_index.json; empty if the folder has none."""
        file = self._folder("model_index.json") / "model_index.json"
        return read_json(file) if file.is_file() else {}

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, "" for a folder that holds one model alone."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        file = self._folder(f"{part}/{name}".lstrip("/")) / part / name
        if not file.is_file():
            raise UserError(f"{self.key}={self.name} has no {part or 'model'} ({name} is missing).")
        return read_json(file)

    def part(self, loader: type[Loaded], part: str, **settings: Any) -> Loaded:
        """`loader.from_pretrained` of a part's folder."""
        folder = self.part_folder(part)
        try:
            return loader.from_pretrained(folder, **settings)
        except (OSError, ValueError) as error:
            raise UserError(
                f"The {part or 'vae'} of {self.name} cannot be loaded: {' '.join(str(error).split())} Check the "
                "folder, model.variant and that the weights are safetensors."
            ) from None

    def weights(self, loader: type[Loaded], part: str, dtype: torch.dtype) -> Loaded:
        """A part with safetensors weights of this variant, in `dtype`."""
        return self.part(loader, part, dtype=dtype, variant=self.variant, use_safetensors=True)

    def streamed(self, loader: type[ModelMixin], part: str, dtype: torch.dtype) -> ModelMixin:
        """As `weights`, for a diffusers model without buffers; never holds two copies."""
        folder = self.part_folder(part)
        variant = re.escape(f".{self.variant}") if self.variant else ""
        pattern = re.compile(rf"diffusion_pytorch_model{variant}(-\d+-of-\d+)?\.safetensors")
        files = sorted(file for file in folder.iterdir() if pattern.fullmatch(file.name))
        if not files:
            variant = f" in the variant {self.variant}" if self.variant else ""
            raise UserError(
                f"The {part} of {self.name} cannot be loaded: it has no safetensors weights{variant}. Check the folder "
                "and model.variant."
            )
        with torch.device("meta"):
            model = loader.from_config(self.config(part))
        return fill(model, files, dtype).eval()

    def part_folder(self, part: str) -> Path:
        """Where a part's files are, fetched if they were not."""
        folder = self._folder(part) / part
        if not folder.is_dir():
            raise UserError(f"{self.key}={self.name} has no folder {part}; it is not a whole SDXL pipeline.")
        return folder

    def identity(self, part: str) -> list[str]:
        """The content of one part: the hub's commit, or the hash of every file."""
        folder = self._folder(part)
        if folder.parent.name == "snapshots":  # .../models--owner--name/snapshots/<commit>, as the hub's cache has it
            return [folder.parent.parent.name, folder.name, part, self.variant or ""]
        files = sorted(file for file in (folder / part).glob("*") if file.suffix in (".safetensors", ".json", ".txt"))
        return [f"{file.name}:{sha256(file)}" for file in files]

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
