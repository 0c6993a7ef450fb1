"""The settings that a LoRA comes with: read as PEFT reads them, within a time, and of no other type."""

import json
from itertools import product

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file
from torch import nn

from mapolab.errors import UserError
from mapolab.models import lora_settings
from mapolab.models.lora_files import check_lora
from mapolab.models.lora_settings import LoraSettings, read_settings
from mapolab.models.sdxl import SDXL

NAMES = [
    f"{block}.{layer}.{name}"
    for block, layer, name in product(("down_blocks.0.layers", "mid.layers", "layers"), range(3), ("to_q", "ff.net.0"))
]
TARGETS = [
    {"target_modules": ["to_q"]},
    {"target_modules": ["mid.layers.1.to_q", "0"]},
    {"target_modules": r".*\.layers\.(0|1)\..*to_q"},
    {"target_modules": "to_q"},
    {"target_modules": ["to_q"], "exclude_modules": ["layers.2.to_q"]},
    {"target_modules": ["to_q"], "exclude_modules": r"mid.*"},
    {"target_modules": ["to_q", "0"], "modules_to_save": ["mid.layers.0"]},
    {"target_modules": ["to_q"], "layers_to_transform": [0, 2]},
    {"target_modules": ["to_q"], "layers_to_transform": 1, "layers_pattern": "layers"},
    {"target_modules": ["to_q"], "layers_to_transform": [1], "layers_pattern": ["blocks", r"lay\w+"]},
    {"target_modules": ["to_q"], "layers_to_transform": [], "layers_pattern": "layers"},
]


class Layers(nn.Module):
    """Linear layers of NAMES."""

    def __init__(self) -> None:
        super().__init__()
        for name in NAMES:
            owner: nn.Module = self
            for part in name.split("."):
                if part not in owner._modules:
                    owner.add_module(
                        part, nn.Linear(1, 1) if name.endswith(f".{part}") and part != "0" else nn.Module()
                    )
                owner = owner._modules[part]


@pytest.mark.parametrize("values", TARGETS, ids=str)
def test_the_layers_are_those_that_peft_chooses(values):
    settings, config = LoraSettings(values, "here"), LoraConfig(**values)
    found = {name for name in NAMES if settings._is_target(name)}
    assert found == {name for name in NAMES if check_target_module_exists(config, name)}
    model = Layers()
    assert settings.targets(model) <= {name for name, _ in model.named_modules()}


@pytest.mark.parametrize(
    "patterns",
    [{"to_q": 2}, {"layers.1": 3, r"mid\..*": 4}, {r"^mid.layers.0.to_q": 5}, {r"net\.\d": 6, "0": 7}],
    ids=str,
)
def test_the_ranks_are_those_that_peft_chooses(patterns):
    settings = LoraSettings({"r": 8, "rank_pattern": patterns, "lora_alpha": 1}, "here")
    for name in NAMES:
        assert settings.rank_and_alpha(name) == (patterns.get(get_pattern_key(patterns, name), 8), 1)


SLOW = r"(.|.)*[^.\w]"
QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
PEFT = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [QUERY]}


@pytest.mark.parametrize(
    "slow",
    [
        {"target_modules": SLOW}, {"exclude_modules": SLOW}, {"rank_pattern": {SLOW: 2}}, {"alpha_pattern": {SLOW: 2}},
        {"modules_to_save": [SLOW]}, {"target_modules": ["to_q"], "layers_to_transform": [0], "layers_pattern": SLOW},
    ],
    ids=lambda slow: list(slow)[-1],
)  # fmt: skip
def test_a_pattern_that_takes_forever(tiny_pipeline_folder, tmp_path, monkeypatch, reliability, slow):
    monkeypatch.setattr(lora_settings, "MATCHING_SECONDS", 0.2)
    ends = {"lora_A": torch.ones(2, 16), "lora_B": torch.ones(16, 2)}
    tensors = {f"base_model.model.{QUERY}.{end}.weight": tensor for end, tensor in ends.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(PEFT | slow))
    with pytest.raises(UserError, match=r"have patterns that take longer than 0\.2 seconds"):
        check_lora(tmp_path, SDXL(str(tiny_pipeline_folder)))
    if "target_modules" in slow and len(slow) == 1:
        reliability(
            "A LoRA whose settings hold a regular expression that takes forever",
            "refused within seconds",
            "refused by name when its time was over",
        )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank_pattern": "to_q"}, "rank_pattern=to_q"),
        ({"modules_to_save": "conv_in"}, "modules_to_save=conv_in"),
        ({"modules_to_save": [["conv_in"]]}, "modules_to_save="),
        ({"target_modules": {"to_q": 1}}, "target_modules="),
        ({"target_modules": [3]}, "target_modules="),
        ({"layers_to_transform": [0.5]}, "layers_to_transform="),
        ({"use_rslora": "false"}, "use_rslora=false"),
        ({"bias": "some"}, "bias=some"),
        ({"r": "2"}, "r=2"),
        ({"lora_alpha": [4]}, "lora_alpha="),
        ({"target_modules": "(" * 50_000 + ")" * 50_000}, "the pattern"),
        ({"target_modules": "(?R)"}, "the pattern"),
        ({"modules_to_save": ["x)|(y"]}, "the pattern"),
        ({"megatron_x": "y" * 1_000_000}, r"megatron_x=y+\.\.\. \(\d+ characters\)"),
    ],
)
def test_settings_of_another_type(tmp_path, values, said):
    (tmp_path / "adapter_config.json").write_text(json.dumps(PEFT | values))
    with pytest.raises(UserError, match=said) as raised:
        read_settings(tmp_path / "a.safetensors", {}, {"unet"}, tmp_path / "adapter_config.json")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 800


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "[" * 1_000_000, '{"unet.r":' * 500_000])
def test_metadata_that_are_no_settings(tmp_path, text):
    with pytest.raises(UserError, match=r"The LoRA's settings in the metadata of .*a\.safetensors cannot be read"):
        read_settings(tmp_path / "a.safetensors", {"lora_adapter_metadata": text}, {"unet"}, None)
