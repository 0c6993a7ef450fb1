"""PickScore in transformers' layout against CLIP's definition, step by step, to 1e-5."""

import shutil

import pytest
import torch
from by_hand import (
    causal,
    clip_pixels,
    gelu,
    layer_norm,
    patches,
    pre_norm_block,
    separate_qkv,
    unit,
    weights_of,
)
from safetensors.torch import load_file, save_file
from tiny_pickscore import TOKENS, save_pickscore
from transformers import CLIPImageProcessorPil

from mapolab.errors import UserError
from mapolab.evaluation.scorers.pickscore import PickScore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pickscore(tmp_path_factory.mktemp("pickscore"))


def test_the_score_equals_the_definition(folder, pictures):
    scorer = PickScore(str(folder), str(folder))
    w = weights_of(scorer.model.state_dict())
    prompts = ["a cat", "two kites", "rain"]
    for picture, prompt, score in zip(pictures, prompts, scorer(pictures, prompts), strict=True):
        tokens = scorer.tokenizer(prompt)["input_ids"]
        # start, one token a character, end
        assert tokens[0] == 188 and tokens[-1] == 189 and len(tokens) == len(prompt.replace(" ", "")) + 2
        cosine = (unit(picture_embedding(clip_pixels(picture, 28), w)) * unit(prompt_embedding(tokens, w))).sum()
        assert score.item() == pytest.approx(100 * cosine.item(), abs=1e-4, rel=1e-5)


def test_long_prompts_are_cut_as_the_processor_does(folder, pictures):
    scorer = PickScore(str(folder), str(folder))
    assert scorer.token_limit == TOKENS
    assert scorer.count_tokens("a" * 40) == 42
    w = weights_of(scorer.model.state_dict())
    tokens = [188, *scorer.tokenizer("a" * 40)["input_ids"][1:11], 189]
    cosine = (unit(picture_embedding(clip_pixels(pictures[0], 28), w)) * unit(prompt_embedding(tokens, w))).sum()
    assert scorer(pictures[:1], ["a" * 40]).item() == pytest.approx(100 * cosine.item(), abs=1e-4)


def test_preprocessing_is_the_processors_pixel_for_pixel(folder, pictures):
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    for picture in pictures:
        pixels = processor([picture], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels.double(), clip_pixels(picture, 28), atol=1e-6, rtol=0)


def test_weights_that_are_not_whole_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights, file = load_file(folder / "model.safetensors"), tmp_path / "model.safetensors"
    plain = PickScore(str(folder), str(folder)).fingerprint
    assert PickScore(str(tmp_path), str(folder)).fingerprint == plain
    save_file(weights | {"text_model.embeddings.position_ids": torch.arange(TOKENS)[None]}, file, {"format": "pt"})
    assert PickScore(str(tmp_path), str(folder)).fingerprint != plain
    lacking = {name: tensor for name, tensor in weights.items() if name != "visual_projection.weight"}
    for tensors, said in (
        (lacking, r"lack visual_projection\.weight"),
        (weights | {"x": torch.ones(1)}, "x has no place in the model"),
        (weights | {"logit_scale": torch.tensor(torch.nan)}, "logit_scale holds numbers that are not finite"),
    ):
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(UserError, match=f"does not hold the weights of pickscore: .* {said}"):
            PickScore(str(tmp_path), str(folder))
    file.unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no safetensors weights"):
        PickScore(str(tmp_path), str(folder))


def block(x, at, w, mask=None):
    names = (
        f"{at}.layer_norm1", separate_qkv(f"{at}.self_attn"), f"{at}.self_attn.out_proj",
        f"{at}.layer_norm2", f"{at}.mlp.fc1", f"{at}.mlp.fc2",
    )  # fmt: skip
    return pre_norm_block(x, 2, gelu, 1e-5, w, names, mask)


def picture_embedding(pixels, w):
    x = patches(pixels, w("vision_model.embeddings.patch_embedding.weight"), None, 14)
    x = torch.cat([w("vision_model.embeddings.class_embedding")[None, None], x], 1)
    x = x + w("vision_model.embeddings.position_embedding.weight")
    x = layer_norm(x, w("vision_model.pre_layrnorm.weight"), w("vision_model.pre_layrnorm.bias"), 1e-5)
    for layer in range(2):
        x = block(x, f"vision_model.encoder.layers.{layer}", w)
    x = layer_norm(x[:, 0], w("vision_model.post_layernorm.weight"), w("vision_model.post_layernorm.bias"), 1e-5)
    return x @ w("visual_projection.weight").T


def prompt_embedding(tokens, w):
    x = w("text_model.embeddings.token_embedding.weight")[tokens]
    x = (x + w("text_model.embeddings.position_embedding.weight")[: len(tokens)])[None]
    for layer in range(2):
        x = block(x, f"text_model.encoder.layers.{layer}", w, causal(len(tokens)))
    x = layer_norm(x, w("text_model.final_layer_norm.weight"), w("text_model.final_layer_norm.bias"), 1e-5)
    return x[:, tokens.index(189)] @ w("text_projection.weight").T
