"""Each scorer's exact architecture, small, with random weights in the layout of the published file."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

ARCHITECTURE = "mapolab-tiny"
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 24, "head_width": 12, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
PROMPTS = ["a photo of a cat", "Two red kites, over the sea!", "rain"]


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Noise with structure: square, wide and tall."""
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (96, 60), (50, 90)]
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).resize((width, height))
        for width, height in sizes
    ]


@pytest.fixture(scope="session")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names of tiny CLIPs in open-clip's registry: with the exact GELU, and with OpenAI's quick one."""
    folder = tmp_path_factory.mktemp("architectures")
    for name, quick in ((ARCHITECTURE, False), (f"{ARCHITECTURE}-quickgelu", True)):
        (folder / f"{name}.json").write_text(json.dumps(TINY_CLIP | {"quick_gelu": quick}))
    open_clip.add_model_config(folder)
    return {"exact": ARCHITECTURE, "quick": f"{ARCHITECTURE}-quickgelu"}


@pytest.fixture(scope="session")
def clip_weights(architectures: dict[str, str]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = open_clip.create_model(architectures["exact"])
    return {name: tensor.clone() + 0.02 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


@pytest.fixture
def clip_file(clip_weights: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    save_file(clip_weights, tmp_path / "open_clip_model.safetensors")
    return tmp_path / "open_clip_model.safetensors"
