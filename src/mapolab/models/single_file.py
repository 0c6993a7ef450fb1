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
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from mapolab.errors import UserError
from mapolab.models.noise_process import fault_of_file, stated_in_file
from mapolab.models.original_layout import TEXT_1, TEXT_2, UNET, VAE, unet_names
from mapolab.models.pipeline_folder import PipelineFolder
from mapolab.models.weights import fill

Loaded = TypeVar("Loaded")
PREFIXES = {"vae": VAE, "text_encoder": TEXT_1, "text_encoder_2": TEXT_2}


@dataclass(frozen=True)
class SingleFile:
    """name: the file's path. configs: the pipeline that lends what the file has not.

    All methods raise UserError for a file that cannot be read or is another model.
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

    def part(self, loader: type[Loaded], part: str, **settings: Any) -> Loaded:
        """Tokenizers, lent."""
        return self.configs.part(loader, part, **settings)

    def streamed(self, loader: type[UNet2DConditionModel], part: str, dtype: torch.dtype) -> UNet2DConditionModel:
        """The UNet in `dtype`."""
        config = self.configs.config(part)
        with torch.device("meta"):
            model = loader.from_config(config)
        names = {name: UNET + original for name, original in unet_names(config, model.state_dict()).items()}
        return fill(model, [self.path], dtype, names).eval()

    def weights(self, loader: type[Loaded], part: str, dtype: torch.dtype) -> Loaded:
        """The VAE or a text encoder in `dtype`, by diffusers' own conversion."""
        configs = str(self._config_folder(part))
        try:
            if loader is AutoencoderKL:
                return loader.from_single_file(str(self.path), config=configs, subfolder="vae", dtype=dtype)
            other = "text_encoder_2" if part == "text_encoder" else "text_encoder"
            absent = dict.fromkeys(("unet", "vae", "tokenizer", "tokenizer_2", other))
            pipeline = StableDiffusionXLPipeline.from_single_file(
                str(self.path), config=configs, scheduler=EulerDiscreteScheduler(), dtype=dtype, **absent
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"The {part} in {self.name} cannot be loaded: {' '.join(str(error).split())[:500]} Check that "
                "model.single_file_config names a pipeline of the same architecture."
            ) from None
        return getattr(pipeline, part)

    def identity(self, part: str) -> list[str]:
        """The hash of a part's tensors, or the lending pipeline's identity of what it lends."""
        prefix = PREFIXES.get(part)
        if prefix is None:
            return self.configs.identity(part)
        digest = hashlib.sha256()
        start = 8 + self._header_size
        with open(self.path, "rb") as file:
            for name, about in sorted(self.header.items()):
                if name.startswith(prefix):
                    begin, end = about["data_offsets"]
                    file.seek(start + begin)
                    digest.update(f"{name} {about['dtype']} {about['shape']}".encode() + file.read(end - begin))
        return [part, digest.hexdigest()]

    @property
    def path(self) -> Path:
        return Path(self.name).expanduser()

    @cached_property
    def header(self) -> dict[str, Any]:
        """name -> dtype, shape and place of each tensor."""
        try:
            with open(self.path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                return json.loads(file.read(size)) if size < 100 << 20 else {}
        except (OSError, ValueError):
            return {}

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says beside its tensors; empty if it says nothing."""
        return self.header.get("__metadata__", {})

    @property
    def _header_size(self) -> int:
        with open(self.path, "rb") as file:
            return int.from_bytes(file.read(8), "little")

    def _config_folder(self, part: str) -> Path:
        """The lending pipeline's folder, with the configs that diffusers reads."""
        self.configs.index()
        self.configs.config(part)
        return self.configs.part_folder(part).parent


def _fault(header: dict[str, Any]) -> str | None:
    """Why a file with these tensors is no SDXL checkpoint; None if it is one."""
    has = {prefix: any(name.startswith(prefix) for name in header) for prefix in (UNET, VAE, TEXT_1, TEXT_2)}
    if not header:
        return "is no sound safetensors file"
    if any(name.startswith("cond_stage_model.") for name in header):
        return "is a Stable Diffusion 1 or 2 checkpoint (it has one text encoder, under cond_stage_model)"
    if has[UNET] and any(name.startswith("conditioner.embedders.0.model.") for name in header):
        return "is the SDXL refiner (its only text encoder is the larger one)"
    if not all(has.values()):
        lacking = next(prefix for prefix, there in has.items() if not there)
        return f"has no tensors under {lacking}, so it is no whole SDXL checkpoint in the original key layout"
    return None
