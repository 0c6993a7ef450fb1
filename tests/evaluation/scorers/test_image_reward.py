"""ImageReward from a checkpoint with the published names, against BLIP's definition, step by step, to 1e-5."""

import pytest
import torch
from by_hand import (
    attention,
    clip_pixels,
    gelu,
    joined_qkv,
    layer_norm,
    linear,
    patches,
    pre_norm_block,
    weights_of,
)
from published_image_reward import SMALL_TEXT, SMALL_VISION, WORDS, published_checkpoint
from transformers import BertTokenizerFast

from mapolab.errors import UserError
from mapolab.evaluation.scorers.image_reward import DEVIATION, MEAN, TEXT, VISION, ImageReward


@pytest.fixture
def scorer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = VISION | SMALL_VISION, TEXT | SMALL_TEXT
    torch.save(published_checkpoint(*sizes), tmp_path / "ImageReward.pt")
    return ImageReward(str(tmp_path), str(tmp_path), SMALL_VISION, SMALL_TEXT)


def test_the_reward_equals_the_definition(scorer, pictures):
    w = weights_of(torch.load(scorer.path, weights_only=True))
    prompts = ["a photo of a cat", "two kites", "rain"]
    tokens = [[2, 5, 6, 7, 5, 8, 3], [2, 9, 10, 11, 3], [2, 12, 3]]
    for picture, prompt, ids in zip(pictures, prompts, tokens, strict=True):
        assert scorer.tokenizer(prompt)["input_ids"] == ids
        reward = (expected_reward(clip_pixels(picture, 32), ids, w) - MEAN) / DEVIATION
        assert scorer([picture], [prompt]).item() == pytest.approx(reward, abs=1e-5, rel=1e-5)
    together = scorer(pictures, prompts)
    alone = torch.cat([scorer([picture], [prompt]) for picture, prompt in zip(pictures, prompts, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_published_sizes_fit_the_published_names():
    """The network at full size takes exactly the tensors of the published file (no memory is used)."""
    from mapolab.evaluation.scorers.image_reward import Network, renamed

    with torch.device("meta"):
        network = Network(VISION, TEXT)
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        checkpoint = renamed(published_checkpoint(VISION, TEXT, "meta"))
    assert {name: tensor.shape for name, tensor in checkpoint.items()} == shapes
    assert sum(shape.numel() for shape in shapes.values()) == pytest.approx(446e6, rel=0.01)


def test_prompts_are_cut_after_35_tokens(scorer, pictures):
    assert scorer.count_tokens("cat " * 50) == 52
    assert scorer(pictures[:1], ["cat " * 50]).item() == scorer(pictures[:1], ["cat " * 33]).item()


def test_the_fingerprint_holds_weights_tokenizer_and_sizes(scorer, tmp_path):
    def made(text: dict = SMALL_TEXT) -> str:
        return ImageReward(str(tmp_path), str(tmp_path), SMALL_VISION, text).fingerprint

    assert made() == scorer.fingerprint == made(TEXT | SMALL_TEXT)
    prints = [made(), made(SMALL_TEXT | {"num_attention_heads": 4})]
    tokenizer = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(tokenizer.replace('"cat"', '"dog"'))
    prints.append(made())
    tensors = torch.load(tmp_path / "ImageReward.pt", weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "ImageReward.pt")
    assert len({*prints, made()}) == 4


def test_other_weights_are_refused(scorer, tmp_path):
    torch.save({"mlp.layers.0.weight": torch.zeros(2, 2)}, tmp_path / "ImageReward.pt")
    with pytest.raises(UserError, match="does not hold the weights of image_reward"):
        ImageReward(str(tmp_path), str(tmp_path), SMALL_VISION, SMALL_TEXT)


def expected_reward(pixels, tokens, w) -> float:
    """Li et al. 2022's picture encoder, then BERT whose layers also attend to the picture, then the head."""
    at = "blip.visual_encoder."
    x = patches(pixels, w(f"{at}patch_embed.proj.weight"), w(f"{at}patch_embed.proj.bias"), 16)
    x = torch.cat([w(f"{at}cls_token"), x], 1) + w(f"{at}pos_embed")
    for layer in range(2):
        name = f"{at}blocks.{layer}"
        qkv = joined_qkv(f"{name}.attn.qkv.weight", f"{name}.attn.qkv.bias")
        names = (f"{name}.norm1", qkv, f"{name}.attn.proj", f"{name}.norm2", f"{name}.mlp.fc1", f"{name}.mlp.fc2")
        x = pre_norm_block(x, 2, gelu, 1e-6, w, names)
    seen = layer_norm(x, w(f"{at}norm.weight"), w(f"{at}norm.bias"), 1e-6)
    at = "blip.text_encoder.embeddings."
    y = w(f"{at}word_embeddings.weight")[tokens] + w(f"{at}position_embeddings.weight")[: len(tokens)]
    y = layer_norm(y[None], w(f"{at}LayerNorm.weight"), w(f"{at}LayerNorm.bias"), 1e-12)
    for layer in range(2):
        at = f"blip.text_encoder.encoder.layer.{layer}."
        y = bert_attention(y, y, f"{at}attention", w)
        y = bert_attention(y, seen, f"{at}crossattention", w)
        h = gelu(linear(y, w(f"{at}intermediate.dense.weight"), w(f"{at}intermediate.dense.bias")))
        h = linear(h, w(f"{at}output.dense.weight"), w(f"{at}output.dense.bias"))
        y = layer_norm(y + h, w(f"{at}output.LayerNorm.weight"), w(f"{at}output.LayerNorm.bias"), 1e-12)
    x = y[:, 0]
    for number in (0, 2, 4, 6, 7):
        x = linear(x, w(f"mlp.layers.{number}.weight"), w(f"mlp.layers.{number}.bias"))
    return x.item()


def bert_attention(y, context, at, w):
    q, k, v = (
        linear(source, w(f"{at}.self.{name}.weight"), w(f"{at}.self.{name}.bias"))
        for name, source in (("query", y), ("key", context), ("value", context))
    )
    h = linear(attention(q, k, v, 2), w(f"{at}.output.dense.weight"), w(f"{at}.output.dense.bias"))
    return layer_norm(y + h, w(f"{at}.output.LayerNorm.weight"), w(f"{at}.output.LayerNorm.bias"), 1e-12)
