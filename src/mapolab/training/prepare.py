"""`mapolab prepare`: makes the cache that a run with the same config trains from."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry

from mapolab import objectives
from mapolab.data.prepared.prepare import prepare
from mapolab.models.sdxl import SDXL
from mapolab.training.data import cache_folder, cache_spec, open_data
from mapolab.training.stopping import StopRequest
from mapolab.training.trainer import quiet_libraries


def prepare_cache(config: dict[str, Any]) -> Path:
    """Make this part of the cache, or what is missing of it. Returns the cache's folder.

    Raises UserError for what the user must change, RunError when a remote does not answer; the same call continues.
    """
    source = open_data(config, objectives.build(**config["objective"]))
    sdxl = SDXL.from_config(config["model"], config["diffusion"])
    sdxl.check_parts(unet=False)
    spec = cache_spec(config, source, sdxl)
    folder = cache_folder(config) / spec.key
    with quiet_libraries(), StopRequest().listening():
        complete = prepare(
            source, spec, sdxl, _device(config["strategy"]["accelerator"]), folder,
            config["part"], config["parts"], config["verify"],
        )  # fmt: skip
    if complete:
        print(f"Ready: {folder}", flush=True)
    return folder


def _device(accelerator: str) -> torch.device:
    """The first device of the kind that the run would train on."""
    wanted = {"auto": ("cuda", "mps"), "gpu": ("cuda", "mps"), "cuda": ("cuda",), "mps": ("mps",)}.get(accelerator, ())
    available = [kind for kind in wanted if AcceleratorRegistry.get(kind).is_available()]
    return torch.device(available[0] if available else "cpu")
