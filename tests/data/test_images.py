import io
import os
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageFile

from mapolab.data.images import load, read_size, to_pixel_values
from mapolab.errors import UserError
from mapolab.pictures import BrokenImage, load_picture


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def stripes(width, height):
    """Column x has the value x: shows which columns a crop kept."""
    return Image.fromarray(np.tile(np.arange(width, dtype=np.uint8), (height, 1))).convert("RGB")


def columns(prepared):
    return prepared.pixels[0, :, 0].tolist()


def test_a_wide_image_is_cut_and_not_stretched():
    prepared = load(encoded(stripes(24, 16)), (16, 16))
    assert columns(prepared) == list(range(4, 20))
    # original height and width, crop top and left, target height and width
    assert prepared.time_ids.tolist() == [16, 24, 0, 4, 16, 16]


def test_a_tall_image_is_resized_by_its_short_side():
    prepared = load(encoded(stripes(32, 96)), (16, 16))
    assert prepared.pixels.shape == (16, 16, 3)
    assert prepared.time_ids.tolist() == [96, 32, 16, 0, 16, 16]


def test_a_target_that_is_no_square_is_covered():
    prepared = load(encoded(stripes(64, 32)), (16, 24))
    assert prepared.pixels.shape == (16, 24, 3)
    assert prepared.time_ids.tolist() == [32, 64, 0, 4, 16, 24]


def test_a_mirrored_image_is_mirrored_before_it_is_cut():
    plain, mirrored = load(encoded(stripes(21, 16)), (16, 16)), load(encoded(stripes(21, 16)), (16, 16), flip=True)
    assert columns(mirrored) == list(range(18, 2, -1))  # column 20 - 2 down to 3: two cut off at the left as it is seen
    assert torch.equal(plain.time_ids, mirrored.time_ids)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    data = encoded(stripes(24, 16), exif=exif)
    assert read_size(data) == (16, 24)
    assert load(data, (16, 16)).time_ids.tolist() == [24, 16, 4, 0, 16, 16]


@pytest.mark.parametrize("sideways", [False, True])
def test_a_large_jpeg_is_decoded_small_and_still_the_same_picture(sideways):
    waves = np.sin(np.arange(480) / 40)[:, None] + np.cos(np.arange(640) / 30)[None]
    picture = Image.fromarray((127 + 60 * waves).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6 if sideways else 1
    small = load(encoded(picture, "JPEG", quality=95, exif=exif), (32, 32))
    whole = load(encoded(picture, "PNG", exif=exif), (32, 32))
    assert torch.equal(small.time_ids, whole.time_ids)
    assert small.time_ids.tolist()[:2] == ([640, 480] if sideways else [480, 640])  # not the decoded size
    assert (small.pixels.float() - whole.pixels.float()).abs().mean() < 1


def test_transparency_becomes_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert load(encoded(clear), (4, 4)).pixels.min() == 255


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (Image.new("L", (4, 4), 7), 7),
        (Image.fromarray(np.full((4, 4), 7 * 256, dtype=np.uint16)), 7),
        (Image.new("RGB", (4, 4), (7, 7, 7)).quantize(4), 7),
    ],
    ids=["grey", "16 bits", "palette"],
)
def test_other_modes_become_rgb(image, value):
    pixels = load(encoded(image), (4, 4)).pixels
    assert pixels.shape == (4, 4, 3)
    assert pixels.unique().tolist() == [value]


def test_pixel_values_reach_from_minus_one_to_one():
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(2, 4, 5, 3)
    values = to_pixel_values(pixels)
    assert values.shape == (2, 3, 4, 5)
    assert values[1, :, 2, 3].tolist() == pytest.approx([-1, 1, -0.6])


@pytest.mark.parametrize("read", [lambda data: load(data, (16, 16)), read_size])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "missing or empty"),
        (b"not an image", "no image file"),
        # A header that promises 100,000 x 100,000 pixels.
        (b"P6 100000 100000 255\n", "too many pixels"),
        (b"P6 10000 10000 255\n", "too many pixels"),  # Pillow itself would only warn
        (b"P6 0 10 255\n", "no image file|of no size"),
    ],
)
def test_a_broken_image_is_refused_with_the_reason(read, data, reason):
    with pytest.raises(BrokenImage, match=reason):
        read(data)


def test_an_image_cut_off_is_refused():
    rng = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "WEBP"):
        whole = encoded(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format)
        with pytest.raises(BrokenImage):
            load(whole[: len(whole) // 2], (16, 16))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_program_is_called_for_a_picture(tmp_path, monkeypatch, reliability):
    called = tmp_path / "called"
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {called}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    with pytest.raises(BrokenImage, match="no image file"):
        load(EPS, (16, 16))
    (tmp_path / "picture.png").write_bytes(EPS)
    with pytest.raises(UserError, match=r"picture.png is broken \(no image file\). Draw it again."):
        load_picture(tmp_path / "picture.png", "Draw it again.")
    assert not called.exists()
    reliability(
        "A picture that is an EPS, in data and in an evaluation", "no program is run", "refused, Ghostscript not called"
    )


def test_of_an_animation_only_the_first_frame_is_decoded():
    colours = [Image.new("RGB", (16, 16), (value, 0, 0)) for value in range(0, 250, 2)]
    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(colours[5], format, save_all=True, append_images=colours)
        expected = load(encoded(colours[5]), (16, 16)).pixels.int()
        assert (load(data, (16, 16)).pixels.int() - expected).abs().max() <= 12
        whole = len(data)
        if format != "WEBP":  # whose container tells its length
            assert (load(data[: whole // 2], (16, 16)).pixels.int() - expected).abs().max() <= 12


@pytest.mark.filterwarnings("ignore:Tag data")
def test_metadata_takes_no_more_than_the_file():
    """A profile of 100 MB in some kB; tags that all point to the same bytes."""
    data = encoded(Image.new("RGB", (16, 16)), icc_profile=bytes(100_000_000))
    assert len(data) < 200_000
    with pytest.raises(BrokenImage, match="Decompressed data too large"):
        load(data, (16, 16))
    tags, shared = 10_000, 120_000
    entries = b"".join(struct.pack("<HHII", 1000 + tag, 7, shared, 14 + 12 * tags) for tag in range(tags))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4 + shared)
    tracemalloc.start()
    load(encoded(Image.new("RGB", (16, 16)), exif=exif), (16, 16))
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_no_half_picture_whatever_another_package_allows(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    whole = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")
    with pytest.raises(BrokenImage, match="cut off"):
        load(whole[: len(whole) // 2], (16, 16))
    with pytest.raises(BrokenImage, match="too many pixels"):
        load(b"P6 100000 100000 255\n", (16, 16))
