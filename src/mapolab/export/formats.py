"""The formats, each one function: what it writes opens with the loader that its docstring names."""

import datetime
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from mapolab.errors import UserError
from mapolab.files import open_to_others, read_json, write_json
from mapolab.models import original_layout as layout
from mapolab.models.learned_token import TOKEN_FILE
from mapolab.models.lora import kohya_tensors, to_file_name, zero_projections
from mapolab.models.lora_files import LORA_FILE
from mapolab.models.lora_reader import Lora
from mapolab.models.readers import read_whole
from mapolab.models.saved import save_tensors


def write_pipeline(folder: Path, pipeline: StableDiffusionXLPipeline) -> None:
    """A whole pipeline: `StableDiffusionXLPipeline.from_pretrained(folder)`."""
    pipeline.save_pretrained(folder)
    _finish(folder)


def write_unet(folder: Path, pipeline: StableDiffusionXLPipeline) -> None:
    """`UNet2DConditionModel.from_pretrained(folder, subfolder="unet")`, where a pipeline has it too."""
    pipeline.unet.save_pretrained(folder / "unet")
    _finish(folder / "unet")


def write_lora(folder: Path, weights: Path, lora: Lora, dtype: torch.dtype) -> None:
    """The adapters in diffusers' layout: `pipeline.load_lora_weights(folder)`."""
    saved, metadata = read_whole(weights / LORA_FILE, "The LoRA")
    tensors = {to_file_name(key): tensor for key, tensor in saved.items()}
    for (part, layer), zeros in zero_projections(lora).items():
        if not any(key.startswith(f"{part}.") and ".self_attn." in key for key in tensors):
            tensors |= {f"{part}.{layer}.lora_A.weight": zeros.down, f"{part}.{layer}.lora_B.weight": zeros.up}
    save_tensors(_in(dtype, tensors), folder / LORA_FILE, metadata)


def write_token(folder: Path, weights: Path, dtype: torch.dtype) -> None:
    """The learned token as an embedding file: `pipeline.load_textual_inversion` of each of its two tensors."""
    rows, metadata = read_whole(weights / TOKEN_FILE, "The learned token's file")
    save_tensors(_in(dtype, rows), folder / TOKEN_FILE, metadata)


def write_kohya(path: Path, lora: Lora, unet_config: Any, dtype: torch.dtype) -> None:
    """The adapters for ComfyUI and A1111; diffusers' `load_lora_weights` reads them too."""
    first = next(adapter for (part, _), adapter in lora.adapters.items() if part == "unet")
    metadata = {
        "format": "pt",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(first.rank),
        "ss_network_alpha": str(first.scale * first.rank),
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    }
    tensors = kohya_tensors(lora, unet_config)
    matrices = _in(dtype, {name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")})
    save_tensors(tensors | matrices, path, metadata)  # alpha in float32: a half would round it


def write_single_file(path: Path, pipeline: StableDiffusionXLPipeline, title: str) -> None:
    """All weights in the original key layout: `StableDiffusionXLPipeline.from_single_file(path)`, and the usual UIs."""
    tensors = {}
    for part in layout.PREFIXES:
        model = getattr(pipeline, part)
        weights = model.state_dict()
        tensors |= layout.to_original(weights, layout.slots(part, model.config, weights))
    scheduler = pipeline.scheduler.config
    velocity = scheduler.prediction_type == "v_prediction"
    # Empty tensors by which the UIs know how the model predicts.
    tensors |= {"v_pred": torch.tensor([])} if velocity else {}
    tensors |= {"ztsnr": torch.tensor([])} if scheduler.get("rescale_betas_zero_snr") else {}
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.title": title,
        "modelspec.date": datetime.date.today().isoformat(),
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }
    save_tensors(tensors, path, metadata)


def _finish(folder: Path) -> None:
    """Weights that others may read, and configs that do not tell in which folder of this machine the parts lay."""
    for file in folder.rglob("*.safetensors"):
        open_to_others(file)
    for file in folder.rglob("config.json"):
        config = read_json(file)
        if config.pop("_name_or_path", None) is not None:
            write_json(file, config)


def _in(dtype: torch.dtype, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    if lost := [name for name, tensor in found.items() if not tensor.isfinite().all()]:
        raise UserError(f"{lost[0]} overflows in {dtype}. Export with dtype=float32.")
    return found
