"""LoRA files in every layout give the weights that plain arithmetic gives, or are refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mapolab.errors import UserError
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.generation import load_pipeline
from mapolab.evaluation.models import find_models
from mapolab.export.formats import write_kohya
from mapolab.models.learned_token import TOKEN_FILE
from mapolab.models.lora import add_adapters, put_adapters, to_file_name
from mapolab.models.lora_files import LORA_FILE, lora_files, read_lora
from mapolab.models.lora_names import PARTS, full_names
from mapolab.models.saved import read_weights
from mapolab.models.sdxl import SDXL

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
# By layer in diffusers' names: the name in SDXL's original layout, for a UNet of two levels with one layer each.
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0.conv1": "input_blocks.3.0.in_layers.2",
    "down_blocks.1.resnets.0.time_emb_proj": "input_blocks.3.0.emb_layers.1",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.3.0.skip_connection",
    "down_blocks.1.attentions.0.proj_in": "input_blocks.3.1.proj_in",
    f"{BLOCK}.attn1.to_q": "input_blocks.3.1.transformer_blocks.0.attn1.to_q",
    f"{BLOCK}.attn2.to_out.0": "input_blocks.3.1.transformer_blocks.0.attn2.to_out.0",
    f"{BLOCK}.ff.net.0.proj": "input_blocks.3.1.transformer_blocks.0.ff.net.0.proj",
    "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": "middle_block.1.transformer_blocks.0.attn2.to_k",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0.conv2": "output_blocks.2.0.out_layers.3",
    "conv_out": "out.2",
}
ATTENTION = {name: original for name, original in UNET.items() if ".attn" in name}
TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.out_proj", "encoder.layers.1.mlp.fc1")
RANKS, ALPHAS = (2, 3), (1.0, 5.0, 6.5)

Layers = dict[tuple[str, str], tuple[Tensor, Tensor, float]]


@pytest.fixture(scope="module")
def base(tiny_pipeline_folder: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(tiny_pipeline_folder)


@pytest.fixture
def opened(tiny_pipeline_folder: Path, tmp_path: Path) -> Callable[[Path], StableDiffusionXLPipeline]:
    """The base with a LoRA, as `evaluate` opens it."""

    def load(lora: Path) -> StableDiffusionXLPipeline:
        (model,) = find_models([{"pretrained": str(tiny_pipeline_folder), "lora": str(lora)}], tmp_path)
        return load_pipeline(model)

    return load


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """By a name without `text_model.`, which transformers puts before some classes' layers."""
    modules = dict(model.named_modules())
    return modules[name] if name in modules else modules[f"text_model.{name}"]


def adapters_for(base: StableDiffusionXLPipeline, unet: Any = UNET, text: Any = TEXT) -> Layers:
    """Random ones, with ranks and alphas that differ from layer to layer."""
    generator = torch.Generator().manual_seed(1)
    found: Layers = {}
    places = [("unet", name) for name in unet] + [(part, name) for part in PARTS[1:] for name in text]
    for number, (part, name) in enumerate(places):
        shape = layer_of(getattr(base, part), name).weight.shape
        rank, ones = RANKS[number % 2], (1,) * (len(shape) - 2)
        down = torch.randn(rank, *shape[1:], generator=generator) * 0.2
        up = torch.randn(shape[0], rank, *ones, generator=generator) * 0.2
        found[part, name] = down, up, ALPHAS[number % 3]
    return found


def delta(down: Tensor, up: Tensor) -> Tensor:
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def by_hand(base: StableDiffusionXLPipeline, layers: Layers, scaled: bool = True) -> dict[str, nn.Module]:
    """The models with W + alpha / rank * B A, or with W + B A."""
    models = {part: copy.deepcopy(getattr(base, part)) for part in PARTS}
    for (part, name), (down, up, alpha) in layers.items():
        scale = alpha / len(down) if scaled else 1.0
        layer_of(models[part], name).weight.data += scale * delta(down, up)
    return models


@torch.no_grad()
def outputs(models: dict[str, nn.Module]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(2, 4, 8, 8, generator=generator)
    embeds, pooled = torch.randn(2, 8, 24, generator=generator), torch.randn(2, 16, generator=generator)
    about = {"text_embeds": pooled, "time_ids": torch.ones(2, 6)}
    unet = models["unet"](sample, 500, embeds, added_cond_kwargs=about).sample
    ids = torch.randint(1, 90, (2, 8), generator=generator)
    text = [models[part](ids, output_hidden_states=True).hidden_states[-1] for part in PARTS[1:]]
    return [unet, *text]


def check(pipeline: StableDiffusionXLPipeline, expected: dict[str, nn.Module], base: Any, changed: set[str]) -> None:
    found = outputs({part: getattr(pipeline, part) for part in PARTS})
    start = outputs({part: getattr(base, part) for part in PARTS})
    for part, one, other, before in zip(PARTS, found, outputs(expected), start, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)
        assert ((one - before).abs().max() > 1e-2) == (part in changed), part


def kohya(layers: Layers, name_of: Callable[[str], str], kinds: tuple[str, str], flat: bool) -> dict[str, Tensor]:
    found = {}
    prefixes = ("lora_unet_", "lora_te1_", "lora_te2_") if flat else ("diffusion_model.", *COMFY_TEXT)
    for (part, name), (down, up, alpha) in layers.items():
        stem = name_of(name) if part == "unet" else f"text_model.{name}"
        stem = prefixes[PARTS.index(part)] + (stem.replace(".", "_") if flat else stem)
        found |= {f"{stem}.{kinds[0]}.weight": down, f"{stem}.{kinds[1]}.weight": up}
        found[f"{stem}.alpha"] = torch.tensor(alpha)
    return found


COMFY_TEXT = "text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer."
KOHYA = "lora_down", "lora_up"
WITH_ALPHA = {
    "kohya, original names": lambda layers: kohya(layers, UNET.get, KOHYA, True),
    "kohya, diffusers' names": lambda layers: kohya(layers, str, KOHYA, True),
    "ComfyUI": lambda layers: kohya(layers, UNET.get, KOHYA, False),
    "ComfyUI, PEFT's matrices": lambda layers: kohya(layers, UNET.get, ("lora_A", "lora_B"), False),
}


@pytest.mark.parametrize("layout", WITH_ALPHA)
def test_layouts_with_an_alpha_of_each_layer(base, opened, tmp_path, layout):
    layers = adapters_for(base)
    save_file(WITH_ALPHA[layout](layers), tmp_path / "a.safetensors")
    check(opened(tmp_path / "a.safetensors"), by_hand(base, layers), base, set(PARTS))


def test_a_layer_without_an_alpha_has_its_rank(base, opened, tmp_path):
    layers = adapters_for(base)
    tensors = WITH_ALPHA["kohya, original names"](layers)
    gone = next(key for key in tensors if key.endswith("attn1_to_q.alpha"))
    (place,) = (place for place in layers if place[1].endswith("attn1.to_q"))
    layers[place] = *layers[place][:2], float(len(layers[place][0]))
    save_file({key: tensor for key, tensor in tensors.items() if key != gone}, tmp_path / "a.safetensors")
    check(opened(tmp_path / "a.safetensors"), by_hand(base, layers), base, set(PARTS))


def old_name(name: str, side: str) -> str:
    """As diffusers wrote an attention's layers before it had PEFT."""
    owner, _, last = name.removesuffix(".0").rpartition(".")
    owner = owner.replace("attn1", "attn1.processor").replace("attn2", "attn2.processor")
    return f"{owner}.{last.replace('_proj', '').removeprefix('to_').join(('to_', '_lora'))}.{side}.weight"


WITHOUT_ALPHA = {
    "diffusers": lambda part, name, side: f"{part}.{name}.lora_{'AB'[side]}.weight",
    "diffusers, text_model": lambda part, name, side: (
        f"{part}.{'text_model.' if part != 'unet' else ''}{name}.lora_{'AB'[side]}.weight"
    ),
    "diffusers' lora.down": lambda part, name, side: (
        f"{part}.{name}.lora{'' if part == 'unet' else '_linear_layer'}.{('down', 'up')[side]}.weight"
    ),
    "diffusers' processors": lambda part, name, side: f"{part}.{old_name(name, ('down', 'up')[side])}",
    "an adapter's name": lambda part, name, side: f"{part}.{name}.lora_{'AB'[side]}.default.weight",
}


@pytest.mark.parametrize("layout", WITHOUT_ALPHA)
def test_layouts_without_alpha(base, opened, tmp_path, layout):
    text = TEXT[:2] if layout == "diffusers' processors" else TEXT
    layers = adapters_for(base, ATTENTION, text)
    name = WITHOUT_ALPHA[layout]
    tensors = {name(*place, side): halves[side] for place, halves in layers.items() for side in (0, 1)}
    save_file(tensors, tmp_path / "a.safetensors")
    check(opened(tmp_path / "a.safetensors"), by_hand(base, layers, scaled=False), base, set(PARTS))


@pytest.mark.parametrize("name", [str, lambda name: old_name(name, "").replace("_lora..weight", "")])
def test_keys_without_a_model_are_those_of_the_only_one_that_has_them(base, opened, tmp_path, name):
    layers = adapters_for(base, ATTENTION, ())
    ends = (".lora_A", ".lora_B") if name is str else ("_lora.down", "_lora.up")
    tensors = {
        f"{name(layer)}{end}.weight": half
        for (_, layer), halves in layers.items()
        for end, half in zip(ends, halves, strict=False)
    }
    save_file(tensors, tmp_path / "a.safetensors")
    check(opened(tmp_path / "a.safetensors"), by_hand(base, layers, scaled=False), base, {"unet"})
    second = {place: halves for place, halves in adapters_for(base, ()).items() if place[0] == "text_encoder_2"}
    tensors = {f"{layer}.lora_{'AB'[side]}": halves[side] for (_, layer), halves in second.items() for side in (0, 1)}
    save_file(tensors, tmp_path / "b.safetensors")  # its width tells it from the first
    check(opened(tmp_path / "b.safetensors"), by_hand(base, second, scaled=False), base, {"text_encoder_2"})


def randomize(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, item in model.named_parameters():
        if item.requires_grad:
            start = item.data if "magnitude" in name or "lora_" not in name else 0
            item.data = start + 0.2 * torch.randn(item.shape, generator=generator)


TARGETS = ["to_q", "to_out.0", "conv1", "proj_in", "time_emb_proj"]
PATTERNS = {"rank_pattern": {"attn1.to_q": 3}, "alpha_pattern": {r"attn\d\.to_q": 7, "proj_in": 0.5}}
PEFT_SETTINGS = {
    "plain": {},
    "patterns": PATTERNS,
    "rslora": {"use_rslora": True, **PATTERNS},
    "dropout": {"lora_dropout": 0.5},
    "DoRA": {"use_dora": True, **PATTERNS},
    "a bias of its own": {"lora_bias": True, "target_modules": ["to_out.0", "conv2"]},
    "all biases": {"bias": "all"},
    "its layers' biases": {"bias": "lora_only"},
    "modules to save": {"modules_to_save": ["conv_in", "time_embedding"]},
}


@pytest.mark.parametrize("settings", PEFT_SETTINGS)
def test_what_peft_saves(base, opened, tmp_path, settings):
    """Its own merge of what it saved is what we compute."""
    model = get_peft_model(
        copy.deepcopy(base.unet),
        LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS} | PEFT_SETTINGS[settings]),
    )
    randomize(model)
    model.save_pretrained(tmp_path / "lora")
    expected = {part: getattr(base, part) for part in PARTS} | {"unet": model.eval()}
    pipeline = opened(tmp_path / "lora")
    check(pipeline, expected, base, {"unet"})
    if settings == "patterns":
        query = layer_of(pipeline.unet, f"{BLOCK}.attn1.to_q")
        start = layer_of(base.unet, f"{BLOCK}.attn1.to_q").weight
        matrices = (
            load_file(tmp_path / "lora" / "adapter_model.safetensors")[key]
            for key in (f"base_model.model.{BLOCK}.attn1.to_q.lora_{one}.weight" for one in "AB")
        )
        torch.testing.assert_close(
            query.get_base_layer().weight + query.get_delta_weight("default"), start + 7 / 3 * delta(*matrices)
        )


def test_dora_is_its_formula(base, opened, tmp_path):
    """m (W + s B A) / |W + s B A|, the norm over each output's weights; for linear layers and convolutions."""
    layers = adapters_for(base, {name: "" for name in UNET if "conv1" in name or "to_q" in name}, ())
    tensors, models = {}, {part: copy.deepcopy(getattr(base, part)) for part in PARTS}
    for (part, name), (down, up, _) in layers.items():
        layer = layer_of(models[part], name)
        weight = layer.weight.data + delta(down, up)
        magnitude = torch.rand(len(weight), generator=torch.Generator().manual_seed(4)) + 0.5
        layer.weight.data = weight * (magnitude / weight.flatten(1).norm(dim=1)).view(-1, *(1,) * (weight.ndim - 1))
        shaped = magnitude if weight.ndim == 2 else magnitude[None, :, None, None]
        tensors |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
        tensors[f"{part}.{name}.lora_magnitude_vector"] = shaped.contiguous()
    save_file(tensors, tmp_path / "a.safetensors")
    check(opened(tmp_path / "a.safetensors"), models, base, {"unet"})


@pytest.mark.parametrize("rslora", [False, True])
def test_what_diffusers_saves(base, opened, tmp_path, rslora):
    """With its metadata, in which alpha stands; and what its loader makes of the file is the same."""
    pipeline = copy.deepcopy(base)
    targets = {"unet": TARGETS, "text_encoder": ["q_proj", "out_proj"], "text_encoder_2": ["fc1", "out_proj"]}
    layers, metadata = {}, {}
    for part, names in targets.items():
        model = getattr(pipeline, part)
        model.add_adapter(LoraConfig(r=2, lora_alpha=5, target_modules=names, use_rslora=rslora))
        randomize(model)
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(model)
        metadata[f"{part}_lora_adapter_metadata"] = {
            key: sorted(value) if isinstance(value, set) else value
            for key, value in model.peft_config["default"].to_dict().items()
        }
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, **layers, **metadata)
    check(opened(tmp_path), {part: getattr(pipeline, part) for part in PARTS}, base, set(PARTS))


def test_what_diffusers_saves_of_a_unet_alone(base, opened, tmp_path):
    unet = copy.deepcopy(base.unet)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=5, target_modules=TARGETS, use_dora=True))
    randomize(unet)
    unet.save_lora_adapter(tmp_path)
    check(opened(tmp_path), {part: getattr(base, part) for part in PARTS} | {"unet": unet}, base, {"unet"})


@pytest.mark.parametrize("part", PARTS[1:])
def test_what_peft_saves_of_a_text_encoder(base, opened, tmp_path, part):
    settings = LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "fc2"], use_dora=True)
    model = get_peft_model(copy.deepcopy(getattr(base, part)), settings)
    randomize(model)
    model.save_pretrained(tmp_path)
    models = {name: getattr(base, name) for name in PARTS} | {part: model.base_model.model.eval()}
    check(opened(tmp_path), models, base, {part})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_other_precisions(base, opened, tmp_path, dtype):
    """The file's numbers, exactly, in the model's precision."""
    layers = {place: (*(half.to(dtype) for half in one[:2]), one[2]) for place, one in adapters_for(base).items()}
    tensors = {key: tensor.to(dtype) for key, tensor in WITH_ALPHA["ComfyUI"](layers).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    exact = {place: (down.float(), up.float(), alpha) for place, (down, up, alpha) in layers.items()}
    check(opened(tmp_path / "a.safetensors"), by_hand(base, exact), base, set(PARTS))


def test_numbers_that_half_precision_cannot_hold(base, tmp_path):
    save_file(PAIR | {f"{QUERY}.lora_A.weight": torch.full((2, 16), 1e6)}, tmp_path / "a.safetensors")
    models = {part: copy.deepcopy(getattr(base, part)).half() for part in PARTS}
    lora = read_lora(tmp_path / "a.safetensors", models, "the model")
    with pytest.raises(UserError, match=r"overflow in torch.float16"):
        put_adapters(models, lora)
    with pytest.raises(UserError, match=r"overflows in torch.float16. Export with dtype=float32"):
        write_kohya(tmp_path / "b.safetensors", lora, base.unet.config, torch.float16)


def test_a_linear_layer_is_a_convolution_of_one_pixel(base, opened, tmp_path):
    """As LyCORIS writes some."""
    layers = adapters_for(base, ATTENTION, ())
    flat = WITH_ALPHA["kohya, original names"](layers)
    tensors = {key: tensor[..., None, None] if tensor.ndim == 2 else tensor for key, tensor in flat.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    check(opened(tmp_path / "a.safetensors"), by_hand(base, layers), base, {"unet"})


def test_a_folder_of_a_lora_may_hold_another_config(base, opened, tmp_path):
    layers = adapters_for(base)
    save_file(WITH_ALPHA["ComfyUI"](layers), tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text("{}")
    check(opened(tmp_path), by_hand(base, layers), base, set(PARTS))


def test_names_of_the_real_sdxl():
    """As they stand in published files."""
    names = full_names(SDXL("builtin:sdxl").empty_models())
    down, mid = "down_blocks.{}.attentions.{}.transformer_blocks.{}.", "mid_block.attentions.0.transformer_blocks.0."
    known = {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": down.format(1, 0, 0) + "attn1.to_q",
        "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj": down.format(2, 1, 9) + "ff.net.0.proj",
        "lora_unet_output_blocks_2_1_proj_out": "up_blocks.0.attentions.2.proj_out",
        "lora_unet_output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
        "lora_unet_input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0": mid + "attn2.to_out.0",
        "lora_unet_label_emb_0_0": "add_embedding.linear_1",
        "lora_unet_output_blocks_8_0_skip_connection": "up_blocks.2.resnets.2.conv_shortcut",
        "diffusion_model.output_blocks.5.0.emb_layers.1": "up_blocks.1.resnets.2.time_emb_proj",
    }
    assert {name: names[name][1] for name in known} == known
    assert names["lora_te1_text_model_encoder_layers_11_mlp_fc1"] == ("text_encoder", "encoder.layers.11.mlp.fc1")
    part, layer = names["lora_te2_text_model_encoder_layers_31_self_attn_out_proj"]
    assert part == "text_encoder_2" and layer.endswith("encoder.layers.31.self_attn.out_proj")
    assert len({place for place in names.values() if place[0] == "unet"}) == 794


QUERY = f"unet.{BLOCK}.attn1.to_q"
PAIR = {f"{QUERY}.lora_A.weight": torch.ones(2, 16), f"{QUERY}.lora_B.weight": torch.ones(16, 2)}
PEFT_PAIR = {f"base_model.model.{key[5:]}": tensor for key, tensor in PAIR.items()}
CONV_PAIR = {
    "unet.conv_out.lora_A.weight": torch.ones(1, 8, 3, 3),
    "unet.conv_out.lora_B.weight": torch.ones(4, 1, 1, 1),
}
NAMED = {key.replace(".weight", ".one.weight"): tensor for key, tensor in PAIR.items()}
TEXT_STEM = "encoder.layers.0.self_attn.q_proj"
REFUSED = {
    "no tensor": ({}, "holds no tensor"),
    "unknown layers": (
        PAIR | {"unet.down_blocks.7.x.to_q.lora_A.weight": torch.ones(2, 16)},
        r"1 of its 3 tensors have no place there: unet\.down_blocks\.7",
    ),
    "a key of nothing": (PAIR | {"step": torch.ones(1)}, "1 of its 3 tensors have no place there: step"),
    "half a pair": (
        {key: tensor for key, tensor in PAIR.items() if "_A" in key},
        "is not whole: of .*to_q it has only down",
    ),
    "alpha alone": (PAIR | {"unet.conv_in.alpha": torch.tensor(2.0)}, "unet.conv_in it has only alpha"),
    "ranks that differ": (
        PAIR | {f"{QUERY}.lora_B.weight": torch.ones(16, 3)},
        r"a up of shape \(16, 3\), not \(16, 2\)",
    ),
    "rank 0": ({key: tensor[:0] if "_A" in key else tensor[:, :0] for key, tensor in PAIR.items()}, "has rank 0"),
    "another width": (
        PAIR | {f"{QUERY}.lora_A.weight": torch.ones(2, 12)},
        r"not \(2, 16\). Give a LoRA of this model",
    ),
    "alpha NaN": (PAIR | {f"{QUERY}.alpha": torch.tensor(float("nan"))}, "alpha that are not finite"),
    "alpha 0": (PAIR | {f"{QUERY}.alpha": torch.tensor(0.0)}, "alpha for .*to_q that is 0"),
    "a value that is not finite": (PAIR | {f"{QUERY}.lora_A.weight": torch.full((2, 16), torch.inf)}, "not finite"),
    "whole numbers": (PAIR | {f"{QUERY}.lora_A.weight": torch.ones(2, 16, dtype=torch.int8)}, "not finite numbers"),
    "two adapters": (
        NAMED | {key.replace("one", "two"): tensor for key, tensor in NAMED.items()},
        r"2 adapters \(one, two\)",
    ),
    "two layouts": (
        PAIR
        | {
            f"lora_{QUERY.replace('.', '_')}.lora_{one}.weight": half
            for one, half in zip(("down", "up"), PAIR.values(), strict=True)
        },
        "two adapters of one layer",
    ),
    "DoRA in part": (
        PAIR | CONV_PAIR | {f"{QUERY}.lora_magnitude_vector": torch.ones(16)},
        "a magnitude for some layers",
    ),
    "PEFT without its config": (PEFT_PAIR, "says alpha in adapter_config.json"),
    "a transformer": (
        {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 2)},
        "diffusion transformer",
    ),
    "Stable Diffusion 1": (
        {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(2, 2)},
        "Stable Diffusion 1",
    ),
    "LoHa": ({"lora_unet_conv_in.hada_w1_a": torch.ones(2, 2)}, "holds LoHa"),
    "LoKr": ({"lora_unet_conv_in.lokr_w1": torch.ones(2, 2)}, "holds LoKr"),
    "kohya's DoRA": ({"lora_unet_conv_in.dora_scale": torch.ones(2, 2)}, "holds DoRA in kohya's layout"),
    "a difference": ({"diffusion_model.input_blocks.0.0.diff": torch.ones(2, 2)}, "changes of whole weights"),
    "a whole model": ({"conv_in.weight": torch.ones(8, 4, 3, 3)}, "1 of its 1 tensors have no place"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_do_not_land_whole(base, tmp_path, case):
    tensors, said = REFUSED[case]
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=said):
        read_lora(tmp_path / "a.safetensors", {part: getattr(base, part) for part in PARTS}, "the model")


PEFT_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [f"{BLOCK}.attn1.to_q"]}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 3}, "has rank 2 and alpha None .*, but its settings say 3 and 4"),
        ({"lora_alpha": float("nan")}, "say lora_alpha=nan"),
        ({"target_modules": ["attn1.to_q"]}, "lacks adapters that its settings speak of, those of mid_block"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa, which mapolab does not do"),
        ({"peft_type": "LOHA"}, "peft_type=LOHA"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"some_later_setting": 3}, "some_later_setting=3"),
        ({"modules_to_save": ["conv_in"]}, "lacks conv_in.bias, conv_in.weight"),
        ({"rank_pattern": {"to_(q": 2}}, r"the pattern to_\(q"),
        (None, "no sound JSON"),
    ],
)
def test_settings_that_do_not_fit_the_file(base, tmp_path, config, said):
    save_file(PEFT_PAIR, tmp_path / "adapter_model.safetensors")
    text = "{" if config is None else json.dumps(PEFT_CONFIG | config)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_lora(tmp_path, {part: getattr(base, part) for part in PARTS}, "the model")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no sound safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS.*git lfs pull"),
        (b"PK\x03\x04rest", "is a pickle"),
        (b"\x80\x02}q\x00.", "is a pickle"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_files_that_are_no_safetensors(base, tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="is a pickle" if name == "a.bin" and b"git" not in content else said):
        read_lora(tmp_path / name, {}, "the model")
    save_file(PAIR, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-5])
    with pytest.raises(UserError, match="no sound safetensors file"):
        read_lora(tmp_path / "cut.safetensors", {}, "the model")


def test_a_text_encoders_lora_that_fits_both_is_refused(tiny_pipeline_folder, base, tmp_path):
    save_file(
        {f"{TEXT_STEM}.lora_{'AB'[side]}.weight": torch.ones(8, 8) for side in (0, 1)}, tmp_path / "a.safetensors"
    )
    models = {"unet": base.unet, "text_encoder": base.text_encoder, "text_encoder_2": base.text_encoder}
    with pytest.raises(UserError, match="does not say which text encoder"):
        read_lora(tmp_path / "a.safetensors", models, "the model")


@pytest.mark.parametrize(
    ("rows", "metadata", "said"),
    [
        ({"clip_l": (1, 8), "clip_g": (1, 16)}, {}, "does not say which token it holds"),
        ({"clip_l": (1, 8), "clip_g": (1, 12)}, {"token": "<x>"}, "The learned token <x> does not fit the model"),
        ({"clip_l": (1, 8), "clip_g": (1, 16)}, {"token": "a"}, "does not say which token it holds"),
        ({"clip_l": (1, 8)}, {"token": "<x>"}, "has not clip_l and clip_g"),
        (None, {}, "no sound safetensors file"),
    ],
)
@pytest.mark.parametrize("by_file", [False, True])
def test_the_learned_token_beside_the_adapters_is_checked_with_them(opened, tmp_path, rows, metadata, said, by_file):
    save_file(PAIR, tmp_path / LORA_FILE)
    if rows is None:
        (tmp_path / TOKEN_FILE).write_bytes(b"x")
    else:
        save_file({key: torch.ones(shape) for key, shape in rows.items()}, tmp_path / TOKEN_FILE, metadata)
    with pytest.raises(UserError, match=said):
        opened(tmp_path / LORA_FILE if by_file else tmp_path)


def test_the_learned_token_comes_with_the_file_too(opened, tmp_path):
    save_file(PAIR, tmp_path / LORA_FILE)
    save_file({"clip_l": torch.ones(1, 8), "clip_g": torch.ones(1, 16)}, tmp_path / TOKEN_FILE, {"token": "<x>"})
    pipeline = opened(tmp_path / LORA_FILE)
    assert pipeline.tokenizer.convert_tokens_to_ids("<x>") == len(pipeline.tokenizer) - 1
    assert (pipeline.text_encoder.get_input_embeddings().weight[-1] == 1).all()


def test_nothing_is_drawn_before_every_lora_is_known_to_fit(tiny_pipeline_folder, tmp_path):
    save_file({"unet.nowhere.lora_A.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    base = str(tiny_pipeline_folder)
    models = [base, {"pretrained": base, "lora": str(tmp_path / "a.safetensors")}]
    settings = {"prompts": "builtin:emoji/prompts/test.csv", "limit": 1, "steps": 1, "height": 16, "width": 16}
    with pytest.raises(UserError, match="have no place there"):
        evaluate({"models": models, "output_root": str(tmp_path / "out"), "scorers": [], **settings})
    assert not list(tmp_path.glob("out/**/*.png"))


def test_dora_of_text_encoders_that_earlier_versions_wrote(tmp_path):
    """Without `.weight`, by which transformers' loader finds a magnitude."""
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_magnitude_vector"
    assert to_file_name(layer) == to_file_name(f"{layer}.default.weight") == f"{layer}.weight"
    save_file({layer: torch.ones(8)}, tmp_path / LORA_FILE)
    name = "text_encoder.encoder.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight"
    assert read_weights(tmp_path, {"lora_metadata": {}, "names": [name]})[name].sum() == 8


def test_a_table_of_embeddings_is_no_target(base):
    settings = LoraConfig(target_modules=["token_embedding"])
    with pytest.raises(UserError, match=r"match .*token_embedding, a table of embeddings"):
        add_adapters(copy.deepcopy(base.text_encoder), settings, 0, 1)


def test_the_files_that_decide_what_is_loaded(tmp_path):
    for name in (
        "other.safetensors",
        LORA_FILE,
        TOKEN_FILE,
        "adapter_config.json",
        "._x.safetensors",
    ):
        (tmp_path / name).touch()
    beside = ["adapter_config.json", TOKEN_FILE]
    assert [file.name for file in lora_files(tmp_path)] == [LORA_FILE, *beside]
    assert [file.name for file in lora_files(tmp_path / "other.safetensors")] == ["other.safetensors", *beside]
    (tmp_path / LORA_FILE).unlink()
    assert lora_files(tmp_path)[0].name == "other.safetensors"
    (tmp_path / "third.safetensors").touch()
    with pytest.raises(UserError, match=r"holds 2 .safetensors files. Name the LoRA's own file"):
        lora_files(tmp_path)
