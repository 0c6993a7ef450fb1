"""Every tensor comes from the files and every tensor of the files has a place, in each part and each layout; what
cannot be loaded so is refused by the check at the start of a command, and by the loader."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from mapolab.errors import UserError
from mapolab.models.original_layout import PREFIXES, slots, to_original
from mapolab.models.parts import MODELS
from mapolab.models.sdxl import SDXL

FILES = {part: "model" if part.startswith("text") else "diffusion_pytorch_model" for part in MODELS}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny_pipeline_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_pipeline_folder, tmp_path / "model")


@pytest.fixture(scope="module")
def original(tiny_pipeline_folder: Path) -> Tensors:
    """The pipeline's tensors as a single file has them."""
    found: Tensors = {}
    for part in MODELS:
        weights = tensors_of(tiny_pipeline_folder / part / f"{FILES[part]}.safetensors")
        config = json.loads((tiny_pipeline_folder / part / "config.json").read_text())
        found |= to_original(weights, slots(part, config, weights))
    return {name: tensor.contiguous() for name, tensor in found.items()}


def tensors_of(file: Path) -> Tensors:
    return {name: tensor.clone() for name, tensor in load_file(file).items()}  # not a view of a file to be replaced


def weights_of(folder: Path, part: str) -> Path:
    return folder / part / f"{FILES[part]}.safetensors"


def load(sdxl: SDXL) -> dict[str, torch.nn.Module]:
    first, second = sdxl.load_text_encoders().models
    return {"unet": sdxl.load_unet(), "vae": sdxl.load_vae(), "text_encoder": first, "text_encoder_2": second}


def fault(sdxl: SDXL) -> str:
    """Of the check, which must come at the start, and of loading without it."""
    with pytest.raises(UserError) as checked:
        sdxl.check()
        sdxl.check_parts()
    with pytest.raises(UserError):
        load(sdxl)
    assert "\n" not in str(checked.value)
    return str(checked.value)


def same(models: dict[str, torch.nn.Module], folder: Path) -> bool:
    """Whether these are the models that diffusers loads from the folder."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
    wanted = {part: getattr(pipeline, part).state_dict() for part in models}
    return all(
        wanted[part].keys() == model.state_dict().keys()
        and all(torch.equal(tensor, wanted[part][name]) for name, tensor in model.state_dict().items())
        for part, model in models.items()
    )


def lacking(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != max(tensors)}


def left_over(tensors: Tensors) -> Tensors:
    return tensors | {"strange.weight": torch.ones(1)}


def reshaped(tensors: Tensors) -> Tensors:
    return tensors | {max(tensors): torch.ones(77)}


def not_finite(tensors: Tensors) -> Tensors:
    return tensors | {max(tensors): torch.full_like(tensors[max(tensors)], torch.nan)}


def whole_numbers(tensors: Tensors) -> Tensors:
    return tensors | {max(tensors): tensors[max(tensors)].to(torch.int8)}


DAMAGES: list[tuple[Callable[[Tensors], Tensors], str]] = [
    (lacking, "They are not whole"),
    (left_over, "strange.weight has no place in the model"),
    (reshaped, "has the shape (77,)"),
    (not_finite, "holds numbers that are not finite"),
    (whole_numbers, "does not hold floating-point numbers"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("part", MODELS)
def test_a_folder_whose_tensors_do_not_fit(folder, part, damage, said):
    file = weights_of(folder, part)
    save_file(damage(tensors_of(file)), file)
    found = fault(SDXL(str(folder)))
    assert said in found and f"{part}" in found


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("part", MODELS)
def test_a_single_file_whose_tensors_do_not_fit(tiny_pipeline_folder, original, tmp_path, part, damage, said):
    prefix = PREFIXES[part]
    own = {name.removeprefix(prefix): tensor for name, tensor in original.items() if name.startswith(prefix)}
    kept = {name: tensor for name, tensor in original.items() if not name.startswith(prefix)}
    file = tmp_path / "model.safetensors"
    save_file(kept | {prefix + name: tensor for name, tensor in damage(own).items()}, file)
    assert said in fault(SDXL(str(file), single_file_config=str(tiny_pipeline_folder)))


@pytest.mark.parametrize(
    ("content", "said"),
    [(lambda data: data[:-9], "no sound"), (lambda _: b"", "it is empty"), (lambda _: POINTER, "`git lfs pull`")],
    ids=["truncated", "empty", "pointer"],
)
@pytest.mark.parametrize("part", [*MODELS, "single file"])
def test_a_file_that_is_not_whole(folder, original, part, content, said):
    sdxl, file = SDXL(str(folder)), folder / "model.safetensors"
    if part == "single file":
        save_file(original, file)
        sdxl = SDXL(str(file), single_file_config=str(folder))
    else:
        file = weights_of(folder, part)
    file.write_bytes(content(file.read_bytes()))
    assert said in fault(sdxl)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", POINTER, b"\xff"], ids=["empty", "cut", "list", "lfs", "bytes"])
@pytest.mark.parametrize(
    "file",
    ["model_index.json", *(f"{part}/config.json" for part in MODELS), "scheduler/scheduler_config.json",
     "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "tokenizer_2/tokenizer.json"],
)  # fmt: skip
def test_a_setting_that_is_no_json(folder, file, content):
    (folder / file).write_bytes(content)
    with pytest.raises(UserError) as raised:
        sdxl = SDXL(str(folder))
        sdxl.check()
        sdxl.check_parts()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("unet/config.json", {"_class_name": "ControlNetModel"}, "has the class ControlNetModel"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "has the class AutoencoderTiny"),
        ("vae/config.json", {"block_out_channels": "many"}, "describes no AutoencoderKL"),
        ("text_encoder/config.json", {"num_attention_heads": 3}, "describes no CLIPTextModel"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, "lack encoder.layers.2"),
        ("text_encoder_2/config.json", {"quantization_config": {"bits": 4}}, "has quantization_config"),
        ("text_encoder/config.json", {"hidden_size": None}, "hidden_size=None"),
        ("text_encoder/config.json", {"vocab_size": 20}, "has the shape (190, 8)"),
        ("unet/config.json", {"addition_time_embed_dim": "4"}, "addition_time_embed_dim=4"),
        ("model_index.json", {"unet": ["diffusers", "UNet2DModel"]}, "SDXL's is a UNet2DConditionModel"),
        ("model_index.json", {"text_encoder": []}, "is the SDXL refiner"),
        ("model_index.json", {"_class_name": 3}, "is a 3"),
        ("model_index.json", {"force_zeros_for_empty_prompt": "false"}, "Make it true or false"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "8"}, "prompts of 8 tokens"),
        ("tokenizer_2/tokenizer_config.json", {"pad_token": "<pad>"}, "has 191 tokens"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 9}, "prompts of 9 tokens"),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 7}, "of 8 and of 7 tokens"),
    ],
)
def test_a_config_of_another_model(folder, file, changes, said):
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    with pytest.raises(UserError) as raised:
        sdxl = SDXL(str(folder))
        sdxl.check()
        sdxl.check_parts()
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_tokenizer_without_its_vocabulary(folder, part):
    """transformers makes one of two words of it, and every prompt is the same."""
    (folder / part / "tokenizer.json").unlink()
    assert "holds no vocabulary" in fault(SDXL(str(folder)))


def test_a_tokenizer_that_does_not_say_how_long_a_prompt_is(folder):
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="model_max_length"):
        SDXL(str(folder)).check_parts()


def shards(folder: Path, part: str, variant: str = "") -> tuple[Path, list[Path]]:
    """The part's weights as an index and two files, as the libraries write them."""
    file, middle = weights_of(folder, part), f".{variant}" if variant else ""
    tensors = tensors_of(file)
    names, where = sorted(tensors), {}
    files = [file.with_name(f"{FILES[part]}{middle}-0000{number}-of-00002.safetensors") for number in (1, 2)]
    for number, one in enumerate(files):
        mine = names[number::2]
        save_file({name: tensors[name] for name in mine}, one, {"format": "pt"})
        where |= dict.fromkeys(mine, one.name)
    index = file.with_name(f"{FILES[part]}.safetensors.index{middle}.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index, files


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_shards_and_variants_are_read_as_diffusers_reads_them(folder, tiny_pipeline_folder, variant):
    for part in MODELS:
        shards(folder, part, variant)
        if variant:  # the plain file beside it is another one
            zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors_of(weights_of(folder, part)).items()}
            save_file(zeros, weights_of(folder, part))
        else:
            weights_of(folder, part).unlink()
        (folder / part / "pytorch_model.bin").write_bytes(b"not read")
    sdxl = SDXL(str(folder), variant=variant or None)
    sdxl.check_parts()
    assert same(load(sdxl), tiny_pipeline_folder)


@pytest.mark.parametrize("part", MODELS)
def test_shards_that_do_not_fit_their_index(folder, part):
    index, (first, second) = shards(folder, part)
    assert "holds two sets of weights" in fault(SDXL(str(folder)))  # of which the libraries choose different ones
    weights_of(folder, part).unlink()
    content, tensors = json.loads(index.read_text()), tensors_of(first)
    save_file(lacking(tensors), first)
    assert "is in only one of" in fault(SDXL(str(folder)))
    first.unlink()
    assert f"{first.name} is missing" in fault(SDXL(str(folder)))
    content["weight_map"] = dict.fromkeys(content["weight_map"], f"../{second.name}")
    index.write_text(json.dumps(content))
    assert "is no index of weights" in fault(SDXL(str(folder)))


@pytest.mark.parametrize("part", MODELS)
def test_weights_of_another_variant_only(folder, part):
    weights_of(folder, part).rename(folder / part / f"{FILES[part]}.fp16.safetensors")
    assert f"there is {FILES[part]}.fp16.safetensors" in fault(SDXL(str(folder)))
    assert "in the variant fp16" in fault(SDXL(str(folder), variant="fp16"))  # which the other parts have not


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_precision_is_read(folder, stored):
    expected = {}
    for part in MODELS:
        file = weights_of(folder, part)
        expected[part] = {name: tensor.to(stored) for name, tensor in tensors_of(file).items()}
        save_file(expected[part], file)
    sdxl = SDXL(str(folder))
    sdxl.check_parts()
    for part, model in load(sdxl).items():
        for name, tensor in model.state_dict().items():
            assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[part][name].float())


def test_weights_that_overflow_in_the_precision_wanted(folder):
    file = weights_of(folder, "text_encoder_2")
    tensors = tensors_of(file)
    tensors[min(tensors)] *= 1e6 / tensors[min(tensors)].abs().max()
    save_file(tensors, file)
    SDXL(str(folder)).check_parts()
    with pytest.raises(UserError, match="overflows there"):
        SDXL(str(folder), encoder_dtype="float16").load_text_encoders()


def test_what_older_versions_wrote(folder, tiny_pipeline_folder):
    """transformers counted positions in the file and put the first encoder under `text_model.`; diffusers called the
    VAE's attention otherwise."""
    file = weights_of(folder, "text_encoder")
    nested = {f"text_model.{name}": tensor for name, tensor in tensors_of(file).items()}
    save_file(nested | {"text_model.embeddings.position_ids": torch.arange(8)[None]}, file)
    file, old = weights_of(folder, "vae"), {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors_of(file).items():
        before = next((part for part in old if f".{part}." in name), None)
        renamed[name.replace(before, old[before]) if before else name] = tensor
    assert any("proj_attn" in name for name in renamed)
    save_file(renamed, file)
    sdxl = SDXL(str(folder))
    sdxl.check_parts()
    assert same(load(sdxl), tiny_pipeline_folder)
    both = nested | {name.removeprefix("text_model."): tensor.clone() for name, tensor in nested.items()}
    save_file(both, weights_of(folder, "text_encoder"))
    assert "is there twice" in fault(sdxl)


def test_a_single_file_is_read_as_diffusers_reads_it(tiny_pipeline_folder, original, tmp_path):
    """With what checkpoints hold beside the four parts: averages, buffers, counted positions, temperatures."""
    beside = {
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(3),
        "denoiser.sigmas": torch.ones(1000),
        "alphas_cumprod": torch.ones(1000),
        "sqrt_one_minus_alphas_cumprod": torch.ones(1000),
        "betas": torch.ones(1000),
        "first_stage_model.loss.logvar": torch.zeros(1),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(8)[None],
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(8.0)[None],
        "conditioner.embedders.0.transformer.text_projection.weight": torch.eye(8),
        "conditioner.embedders.0.logit_scale": torch.tensor(torch.inf),
        "conditioner.embedders.1.model.logit_scale": torch.tensor(4.6),
        "conditioner.embedders.1.model.transformer.text_model.embeddings.position_ids": torch.arange(8)[None],
    }
    half = {name: tensor.half() for name, tensor in original.items() if name.startswith("first_stage")}
    file = tmp_path / "model.safetensors"
    save_file(original | half | beside, file)
    sdxl = SDXL(str(file), single_file_config=str(tiny_pipeline_folder))
    sdxl.check()
    sdxl.check_parts()
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(file), config=str(tiny_pipeline_folder), dtype=torch.float32
    )
    for part, model in load(sdxl).items():
        wanted = getattr(pipeline, part).state_dict()
        assert wanted.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items()), part


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ("model.diffusion_model.input_blocks.0.0.scale_weight", "has no place"),
        ("model.diffusion_model.time_embedding.cond_proj.weight", "has no place"),
        ("conditioner.embedders.1.model.text_projection.weight", "has no place"),
        ("scaled_fp8", "scaled_fp8, which no part of SDXL reads"),
        ("lora_unet_x.lora_up.weight", "which no part of SDXL reads"),
    ],
)
def test_tensors_of_another_kind_in_a_single_file(tiny_pipeline_folder, original, tmp_path, tensor, said):
    file = tmp_path / "model.safetensors"
    save_file(original | {tensor: torch.ones(16)}, file)
    assert said in fault(SDXL(str(file), single_file_config=str(tiny_pipeline_folder)))


def test_a_single_file_of_encoders_of_one_width():
    """Which diffusers cannot tell apart: the tiny twin's tensors, written and read here."""
    twin = SDXL("builtin:tiny_twin")
    for part, model in load(twin).items():
        weights = model.state_dict()
        where = slots(part, model.config, weights)
        written = to_original(weights, where)
        assert {slot.key for slot in where.values()} == set(written)


def test_files_that_are_not_there(tiny_pipeline_folder, tmp_path):
    missing = str(tmp_path / "missing.safetensors")
    with pytest.raises(UserError, match=r"missing\.safetensors does not exist"):
        SDXL(missing, single_file_config=str(tiny_pipeline_folder)).check()
    save_file({"down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}, tmp_path / "unet.safetensors")
    with pytest.raises(UserError, match="holds a UNet in diffusers' layout"):
        SDXL(str(tmp_path / "unet.safetensors"), single_file_config=str(tiny_pipeline_folder)).check()
    with pytest.raises(UserError, match="is one file"):
        SDXL(missing, variant="fp16", single_file_config=str(tiny_pipeline_folder)).check()
