"""Features by the published steps, FID and KID by their formulas, and the mismatch command on the embedded default."""

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.evaluation.features import build_features, frechet_and_kernel_distance
from mapolab.evaluation.mismatch import mismatch
from mapolab.files import read_json

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A small DINOv2 as its repository on the hub holds it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dinov2")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(image_size=224, patch_size=14, **sizes)).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=3,
        image_mean=MEAN.tolist(), image_std=DEVIATION.tolist(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_dinov2_equals_its_steps(dinov2):
    pictures = [picture(0, (300, 400)), picture(1, (256, 256))]
    rows = []
    model = Dinov2Model.from_pretrained(dinov2).eval()
    for one in pictures:
        scale = 256 / min(one.size)
        resized = one.resize((int(one.width * scale), int(one.height * scale)), Image.Resampling.BICUBIC)
        left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
        pixels = torch.from_numpy(np.array(resized.crop((left, top, left + 224, top + 224)))).float() / 255
        with torch.no_grad():
            hidden = model.embeddings(((pixels - MEAN) / DEVIATION).permute(2, 0, 1)[None])
            for layer in model.encoder.layer:
                hidden = layer(hidden)
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            rows.append(model.layernorm(hidden)[0, 0])  # the class token
    found = build_features("dinov2", "cpu", str(dinov2))(pictures)
    torch.testing.assert_close(found, torch.stack(rows), atol=1e-5, rtol=1e-5)


def test_fid_and_kid_equal_their_formulas():
    ours = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 5)))
    theirs = torch.from_numpy(np.random.default_rng(1).normal(0.5, 1.3, size=(60, 5)))
    found = frechet_and_kernel_distance(ours, theirs)
    means, spreads = zip(*((x.numpy().mean(0), np.cov(x.numpy(), rowvar=False)) for x in (ours, theirs)), strict=True)
    root = scipy.linalg.sqrtm(spreads[0] @ spreads[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(spreads[0] + spreads[1] - 2 * root)
    assert found["fid"] == pytest.approx(expected, rel=1e-4)
    # KID: the unbiased squared MMD with the kernel (x.y / d + 1)^3; over all pictures it lies among the subsets'.
    x, y, n = ours.numpy(), theirs.numpy(), len(ours)
    xx, yy, xy = (((a @ b.T) / 5 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    whole = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1)) - 2 * xy.mean()
    assert abs(found["kid"] - whole) < 3 * found["kid_deviation"] / 10
    assert frechet_and_kernel_distance(ours, theirs) == found


def test_real_features_know_pictures_that_look_alike():
    features = build_features("efficientnet_lite0", "cpu")
    plain = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    noise = [picture(seed, (64, 64)) for seed in range(3)]
    rows = torch.nn.functional.normalize(features([*plain, *noise]))
    alike = rows @ rows.T
    assert min(alike[0, 1], alike[3, 4]) > alike[0, 3]


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("dinov3", None, "Did you mean dinov2?"),
        ("dinov2", "/no/such/folder", "no weights at /no/such/folder"),
        ("efficientnet_lite0", "/no/such/file", "feature_weights=/no/such/file does not exist"),
    ],
)
def test_what_cannot_be_built_is_named(name, weights, said):
    with pytest.raises(UserError, match=said):
        build_features(name, "cpu", weights)


def test_the_absent_style_is_further_from_the_base_than_the_common_one(tmp_path, capsys):
    found = {}
    for style in ("fluent-emoji-flat", "fluent-emoji-high-contrast"):
        overrides = [f"data.preferred_style={style}", "pairs=24", f"output_root={tmp_path}", "evaluation.steps=8"]
        found[style] = read_json(mismatch(compose("mismatch", ["experiment=emoji_style", *overrides])))
    near, far = found.values()
    assert near["chosen"]["distance"] < far["chosen"]["low"]
    # The rejected pictures are in the base's own style, whatever is preferred.
    assert far["rejected"]["distance"] < far["chosen"]["distance"]
    assert "24 pairs" in capsys.readouterr().out
