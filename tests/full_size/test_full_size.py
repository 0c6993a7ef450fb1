"""SDXL's own UNet, 2.57 billion parameters with random weights: loaded, and trained for a step.

About four minutes, 14 GB of memory and 5 GB of disk; left out by default: `make test-full-size`.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from lightning.pytorch import Trainer
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from mapolab import objectives
from mapolab.config.compose import compose
from mapolab.models.pipeline_folder import PipelineFolder
from mapolab.models.sdxl import SDXL
from mapolab.models.trained import build_reference, load_trained
from mapolab.paths import PACKAGE
from mapolab.training.module import AlignmentModule

pytestmark = [pytest.mark.slow, pytest.mark.full_size]
RESOLUTION = 128
PARAMETERS = 2_567_463_684  # of SDXL's UNet

LOADING = """
import re, sys, torch
from mapolab.models.sdxl import SDXL

def resident(line):
    return int(re.search(line + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

sdxl = SDXL(sys.argv[1])
before = resident("VmRSS")
unet = sdxl.load_unet(getattr(torch, sys.argv[2]))
size = sum(tensor.nbytes for tensor in unet.parameters())
print((resident("VmHWM") - before) / size)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with SDXL's configs and a UNet of random bfloat16 weights."""
    folder = shutil.copytree(PACKAGE / "assets" / "sdxl", tmp_path_factory.mktemp("sdxl") / "model")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads((folder / "unet" / "config.json").read_text()))
    assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS
    generator = torch.Generator().manual_seed(0)
    weights = {name: random_weight(name, tensor, generator) for name, tensor in unet.named_parameters()}
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    yield folder
    shutil.rmtree(folder)


def random_weight(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Of a size that keeps activations near 1."""
    weight = torch.empty(like.shape, dtype=torch.bfloat16)
    if like.ndim == 1:
        return weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return weight.uniform_(-1, 1, generator=generator).mul_(0.5 * (3 / like[0].numel()) ** 0.5)


def batch() -> dict:
    """One pair at 128 px, encoded."""
    generator = torch.Generator().manual_seed(1)
    side = RESOLUTION // 8
    return {
        "positions": [0],
        "labels": torch.ones(1),
        "weights": torch.ones(1),
        "prompt_embeds": torch.randn(1, 77, 2048, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, 1280, generator=generator),
        **{f"{kind}_latents": torch.randn(1, 4, side, side, generator=generator) for kind in ("chosen", "rejected")},
        **{f"{kind}_time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]]) for kind in ("chosen", "rejected")},
    }


def step(model: Path, objective: str, *overrides: str) -> AlignmentModule:
    """Two optimizer steps with Lightning's own loop: the first one of a LoRA changes only one of its two matrices."""
    config = compose(
        "train", [f"model.pretrained={model}", "model.revision=null", f"objective={objective}", *overrides]
    )
    settings = config["model"] | {
        "revision": None,
        "frozen_dtype": "bfloat16" if config["model"]["lora"] else "float32",
    }
    trained = load_trained(SDXL(str(model)), settings, seed=0)
    chosen = objectives.build(**config["objective"])
    reference = build_reference("lora_off", trained.unet, torch.bfloat16, settings) if chosen.needs_reference else None
    module = AlignmentModule(
        trained, DDPMScheduler(), chosen, 0, config["optimizer"], config["schedule"], reference=reference
    )
    trainer = Trainer(
        accelerator="cpu", precision="bf16-mixed", max_steps=2, gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch(), batch()], collate_fn=lambda items: items[0], batch_size=1))
    return module


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_holds_the_weights_once(model, dtype):
    command = [sys.executable, "-c", LOADING, str(model), dtype]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    ratio = float(re.findall(r"[\d.]+", process.stdout)[-1])
    print(f"peak resident memory while loading to {dtype}: {ratio:.3f} of the weights")
    assert ratio <= 1.15


@pytest.mark.parametrize("objective", ["mapo", "diffusion_dpo"])
def test_a_lora_step(model, objective):
    module = step(model, objective, "model=sdxl_lora", "model.lora.rank=8", "optimizer.lr=1e-4")
    weights = module.trained_weights()
    assert all(torch.isfinite(tensor).all() and tensor.abs().sum() > 0 for tensor in weights.values())
    logs = module.record.means()
    assert torch.isfinite(logs["loss"]) and 0 < logs["error_chosen"] < 10
    if objective == "diffusion_dpo":
        assert logs["reference_error_chosen"] != logs["error_chosen"]  # after the first step


def test_a_forward_and_backward_pass_of_all_weights(model):
    """In pure bfloat16, which is what fits here; the optimizer's state would not."""
    config = compose("train", ["model=sdxl", "model.trained_dtype=bfloat16"])["model"]
    trained = load_trained(SDXL(str(model)), config, seed=0)
    module = AlignmentModule(trained, DDPMScheduler(), objectives.build("mapo", beta=8.0), 0, {}, {})
    module._trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.training_step(batch(), 0)
    loss.backward()
    gradients = [parameter.grad for parameter in trained.unet.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert PipelineFolder(str(model)).config("unet")["cross_attention_dim"] == 2048
