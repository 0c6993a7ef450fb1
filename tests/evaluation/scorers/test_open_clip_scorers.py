"""HPS, CLIPScore and the aesthetic predictor against their definitions, step by step, to 1e-5."""

import numpy as np
import pytest
import torch
from by_hand import (
    DEVIATION,
    MEAN,
    clip_pixels,
    gelu,
    hps_pixels,
    linear,
    open_clip_picture,
    open_clip_prompt,
    quick_gelu,
    unit,
    weights_of,
)
from PIL import Image

from mapolab.errors import UserError
from mapolab.evaluation.scorers.aesthetic import Aesthetic, aesthetic_head
from mapolab.evaluation.scorers.clip_score import CLIPScore
from mapolab.evaluation.scorers.hps import HPS, pad_to_square

PROMPTS = ["a photo of a cat", "two red cats", "rain"]
# CLIP's published vocabulary: start, the words, end.
TOKENS = [[49406, 320, 1125, 539, 320, 2368, 49407], [49406, 1237, 736, 3989, 49407], [49406, 2443, 49407]]


def test_the_tokens_are_clips(architectures):
    import open_clip

    tokens = open_clip.get_tokenizer(architectures["exact"])(PROMPTS)
    for row, expected in zip(tokens.tolist(), TOKENS, strict=True):
        assert row == expected + [0] * (77 - len(expected))


@pytest.mark.parametrize("kind", ["clip_score", "hps"])
def test_cosine_scorers_equal_the_definition(kind, pictures, architectures, clip_weights, clip_file, tmp_path):
    w = weights_of(clip_weights)
    if kind == "hps":
        torch.save({"state_dict": clip_weights, "epoch": 3}, tmp_path / "HPS_v2.1_compressed.pt")
        scorer = HPS("v2.1", weights=str(tmp_path), architecture=architectures["exact"])
        activation, pixels = gelu, [hps_pixels(picture, 28) for picture in pictures]
    else:
        scorer = CLIPScore(weights=str(clip_file), architecture=architectures["quick"])
        activation, pixels = quick_gelu, [clip_pixels(picture, 28) for picture in pictures]
    scores = scorer(pictures, PROMPTS)
    for score, seen, tokens in zip(scores, pixels, TOKENS, strict=True):
        picture = unit(open_clip_picture(seen, w, layers=2, heads=2, patch=14, activation=activation))
        prompt = unit(open_clip_prompt(tokens, w, layers=2, heads=2, activation=activation))
        cosine = (picture * prompt).sum().item()
        expected = 100 * (max(cosine, 0) if kind == "clip_score" else cosine)
        assert score.item() == pytest.approx(expected, abs=1e-4, rel=1e-5)
    # Each picture by itself gives what it gives in a batch.
    alone = torch.cat([scorer([picture], [prompt]) for picture, prompt in zip(pictures, PROMPTS, strict=True)])
    torch.testing.assert_close(alone, scores, atol=1e-4, rtol=1e-5)


def test_hps_pads_with_black_and_resizes_a_tensor():
    """The longest side to 28; bars above and below that are black before the normalisation."""
    wide = Image.fromarray(np.full((20, 56, 3), 255, dtype=np.uint8))
    pixels = pad_to_square(wide, 28)
    white, black = ((value - torch.tensor(MEAN)) / torch.tensor(DEVIATION) for value in (1.0, 0.0))
    torch.testing.assert_close(pixels[:, 14, 14], white)
    torch.testing.assert_close(pixels[:, :9], black[:, None, None].expand(3, 9, 28))
    torch.testing.assert_close(pixels[:, -9:], black[:, None, None].expand(3, 9, 28))
    # A square of the right size is not touched.
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (28, 28, 3), dtype=np.uint8))
    torch.testing.assert_close(pad_to_square(picture, 28)[None].double(), clip_pixels(picture, 28), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (96, 60), (50, 91), (28, 13), (20, 9), (300, 37)])
def test_hps_pixels_are_those_of_the_published_transform(size):
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    found = pad_to_square(picture, 28)[None].double()
    torch.testing.assert_close(found, hps_pixels(picture, 28), atol=2e-5, rtol=0)


def test_the_aesthetic_rating_equals_the_definition(pictures, architectures, clip_weights, clip_file, tmp_path):
    torch.manual_seed(1)
    head = {f"layers.{name}": tensor for name, tensor in aesthetic_head(16).state_dict().items()}
    torch.save(head, tmp_path / "head.pth")
    scorer = Aesthetic(str(tmp_path / "head.pth"), str(clip_file), architectures["quick"])
    w, h = weights_of(clip_weights), weights_of(head)
    for score, picture in zip(scorer(pictures, PROMPTS), pictures, strict=True):
        x = unit(open_clip_picture(clip_pixels(picture, 28), w, layers=2, heads=2, patch=14, activation=quick_gelu))
        for layer in (0, 2, 4, 6, 7):  # the dropouts between do nothing
            x = linear(x, h(f"layers.{layer}.weight"), h(f"layers.{layer}.bias"))
        assert score.item() == pytest.approx(x.item(), abs=1e-5)


def test_preprocessing_is_open_clips_own_pixel_for_pixel(pictures, architectures, clip_file):
    scorer = CLIPScore(weights=str(clip_file), architecture=architectures["quick"])
    for picture in pictures:
        torch.testing.assert_close(
            scorer.clip.preprocess(picture)[None].double(), clip_pixels(picture, 28), atol=1e-6, rtol=0
        )


def test_a_text_takes_the_place_of_the_prompts(pictures, architectures, clip_file):
    given = {"weights": str(clip_file), "architecture": architectures["quick"]}
    plain, style = CLIPScore(**given), CLIPScore(**given, text=PROMPTS[0], name="clip_style")
    assert (plain.name, style.name) == ("clip_score", "clip_style") and style.token_limit is None
    assert plain.fingerprint != style.fingerprint
    torch.testing.assert_close(style(pictures, ["?"] * len(pictures)), plain(pictures, [PROMPTS[0]] * len(pictures)))


def test_prompts_are_counted_and_cut_after_77_tokens(pictures, architectures, clip_file):
    scorer = CLIPScore(weights=str(clip_file), architecture=architectures["quick"])
    long = "cat " * 100
    assert scorer.token_limit == 77
    assert scorer.count_tokens(long) == 102
    assert scorer.count_tokens("cat " * 75) == 77
    torch.testing.assert_close(scorer(pictures[:1], [long]), scorer(pictures[:1], ["cat " * 75]))


def test_missing_broken_and_foreign_weights_are_named(architectures, clip_file, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"needs HPS_v2.1_compressed.pt of xswu/HPSv2 .*_target_: hps_v2.1, weights:"):
        HPS("v2.1")
    with pytest.raises(UserError, match=r"has no weights at .*nowhere"):
        CLIPScore(weights=str(tmp_path / "nowhere.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(clip_file.read_bytes()[:1000])
    with pytest.raises(UserError, match="no sound safetensors file"):
        CLIPScore(weights=str(tmp_path / "cut.safetensors"), architecture=architectures["quick"])
    torch.save({"state_dict": {"something": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"does not hold the weights of hps_v2\.0"):
        HPS("v2.0", weights=str(tmp_path / "other.pt"), architecture=architectures["exact"])


def test_a_pickle_in_place_of_weights_is_not_executed(tmp_path, architectures):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    torch.save({"state_dict": Evil()}, tmp_path / "HPS_v2_compressed.pt")
    with pytest.raises(UserError, match="cannot be read"):
        HPS("v2.0", weights=str(tmp_path), architecture=architectures["exact"])
    assert not (tmp_path / "executed").exists()
