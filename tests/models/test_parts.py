"""Parts from configs that anyone may have written: nothing they name is fetched or made, nothing asks for memory."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mapolab.errors import UserError
from mapolab.models.parts import MODELS, build, load_tokenizer, read_config, tokenizer_files
from mapolab.models.sdxl import SDXL

KINDS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
HUGE = [
    ("unet", {"layers_per_block": 10**9}),
    ("unet", {"transformer_layers_per_block": 10**9}),
    ("unet", {"block_out_channels": [10**12, 10**12]}),
    ("unet", {"cross_attention_dim": 10**15}),
    ("unet", {"down_block_types": ["DownBlock2D"] * 10**6, "up_block_types": ["UpBlock2D"] * 10**6}),
    ("vae", {"layers_per_block": 10**9}),
    ("vae", {"latent_channels": 10**15}),
    ("text_encoder", {"num_hidden_layers": 10**9}),
    ("text_encoder", {"hidden_size": 2 * 10**8}),
    ("text_encoder", {"vocab_size": 10**8}),
    ("text_encoder", {"max_position_embeddings": 10**8}),
]


@pytest.fixture
def folder(tiny_pipeline_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_pipeline_folder, tmp_path / "model")


def config_of(folder: Path, part: str) -> dict:
    return json.loads((folder / part / "config.json").read_text())


def change(folder: Path, file: str, **changes) -> None:
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))


def fault(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        sdxl = SDXL(str(folder))
        sdxl.check()
        sdxl.check_parts()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000
    return str(raised.value)


@pytest.mark.parametrize(("part", "changes"), HUGE, ids=lambda value: str(value)[:30])
def test_a_config_that_asks_for_more_than_its_files_hold(folder, part, changes, reliability):
    """Memory is that of the files: a model is built without any, and its shapes are compared with theirs."""
    change(folder, f"{part}/config.json", **changes)
    fault(folder)
    with pytest.raises(UserError):
        SDXL(str(folder)).parts.load(MODELS[part], part, torch.float32)
    if changes == HUGE[0][1] and part == "unet":
        reliability(
            "A model's config.json that asks for 10^9 layers", "refused before memory is taken", "refused by name"
        )


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"center_input_sample": "no"}),
        ("unet", {"flip_sin_to_cos": None}),
        ("unet", {"norm_eps": "1e-5"}),
        ("unet", {"norm_eps": float("nan")}),
        ("unet", {"mid_block_scale_factor": False}),
        ("unet", {"freq_shift": "0"}),
        ("unet", {"layers_per_block": 1.5}),
        ("unet", {"dropout": []}),
        ("vae", {"sample_size": "x"}),
        ("vae", {"norm_num_groups": 0}),
        ("vae", {"scaling_factor": 10**30}),
        ("vae", {"force_upcast": "no"}),
        ("vae", {"latents_mean": ["a"] * 4, "latents_std": [1] * 4}),
        ("vae", {"latents_std": [0] * 4, "latents_mean": [0] * 4}),
        ("text_encoder", {"layer_norm_eps": None}),
        ("text_encoder", {"layer_norm_eps": float("nan")}),
        ("text_encoder", {"num_attention_heads": -1}),
        ("text_encoder", {"hidden_act": "os.system"}),
        ("text_encoder", {"eos_token_id": [1, 2]}),
    ],
)
def test_a_value_of_another_type_is_neither_a_traceback_nor_another_number(folder, part, changes):
    change(folder, f"{part}/config.json", **changes)
    assert next(iter(changes)) in (found := fault(folder)) or "describes no" in found


FOREIGN = {
    "_attn_implementation": "someone/kernel", "attn_implementation": "kernels-community/flash-attn3",
    "auto_map": {"AutoModel": "someone/code--model.Model"}, "architectures": ["Evil"], "model_type": "evil",
    "return_dict": False, "output_hidden_states": True, "dtype": "os.system", "custom_pipeline": "someone/code",
}  # fmt: skip


@pytest.mark.parametrize("part", KINDS)
def test_what_a_config_names_beside_the_architecture_is_not_taken(folder, part, caplog, capfd):
    plain = build(KINDS[part], config_of(folder, part), part)
    strange = build(KINDS[part], config_of(folder, part) | FOREIGN, part)
    assert str(strange) == str(plain) and "someone" not in caplog.text + capfd.readouterr().err
    if part == "text_encoder":
        assert strange.config.to_dict() == plain.config.to_dict() and strange.config._attn_implementation == "sdpa"


def test_a_config_within_a_config():
    """CLIP's, and the earlier form in which the other one of the two counted."""
    inner = {"hidden_size": 16, "num_attention_heads": 2, "_attn_implementation": "someone/kernel"}
    for values in ({"text_config": inner}, {"text_config": {"hidden_size": 8}, "text_config_dict": inner}):
        found = read_config(CLIPConfig, values | {"projection_dim": 8, "auto_map": {"AutoModel": "a--b"}})
        assert found.text_config.to_dict() == CLIPTextConfig(hidden_size=16, num_attention_heads=2).to_dict()
        assert found.projection_dim == 8 and not hasattr(found, "auto_map")


def test_the_positions_are_counted(tiny_pipeline_folder):
    first, second = SDXL(str(tiny_pipeline_folder)).load_text_encoders().models
    assert isinstance(second, CLIPTextModelWithProjection)
    for model in (first, second):
        (positions,) = (buffer for name, buffer in model.named_buffers() if name.endswith("position_ids"))
        assert positions.tolist() == [list(range(8))]


def test_a_tokenizer_is_words_and_settings(folder):
    """Whatever else its files say: code, templates, paths and other ways to take a prompt apart."""
    part = folder / "tokenizer"
    plain = load_tokenizer(tokenizer_files(part))
    change(
        folder, "tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["someone/code--t.T", None]},
        tokenizer_class="Evil", trust_remote_code=True, chat_template="{{ cycler.__init__.__globals__ }}",
        tokenizer_file="/etc/passwd", vocab_file="/etc/passwd", fast_tokenizer_files=["tokenizer.4.0.0.json"],
    )  # fmt: skip
    tokenizer = json.loads((part / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": False}
    tokenizer |= {
        "pre_tokenizer": split,
        "normalizer": {"type": "Replace", "pattern": {"Regex": "(x*)*y"}, "content": ""},
    }
    (part / "tokenizer.json").write_text(json.dumps(tokenizer))
    strange = load_tokenizer(tokenizer_files(part))
    for prompt in ("a fox", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "xxx y"):
        assert strange(prompt)["input_ids"] == plain(prompt)["input_ids"]
    assert strange.chat_template is None
    SDXL(str(folder)).check_parts()


@pytest.mark.parametrize("word", ["bos_token", "eos_token", "pad_token", "unk_token"])
def test_a_special_word_that_is_in_no_vocabulary(folder, word):
    change(folder, "tokenizer_2/tokenizer_config.json", **{word: None if word == "pad_token" else ""})
    assert f"{word}=" in fault(folder)
