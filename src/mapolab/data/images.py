"""From encoded image bytes to the VAE's input, with the micro-conditioning that tells SDXL what was done to the image.

Each image of a pair is treated by its own size: never stretched or cut to the other's shape. It is decoded once, and a
JPEG that is much larger than its target only as far as the target needs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mapolab.pictures import BrokenImage, open_picture, reason

# Part of the cache's key: raise it whenever `load` changes what it returns.
PREPROCESSING_VERSION = 2
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still so many times the target: what Lanczos then makes
# of it differs from the full decoding by about 0.3 of 255 levels, at a third to a fifth of the time.
DECODED_AT_LEAST = 2
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values that exchange width and height


@dataclass(frozen=True)
class PreparedImage:
    """pixels: (height, width, 3) uint8, as it was decoded. time_ids: (6,) float32, SDXL's `add_time_ids`."""

    pixels: Tensor
    time_ids: Tensor


def load(data: bytes, size: tuple[int, int], flip: bool = False) -> PreparedImage:
    """Decode an image, resize it to cover `size` (height, width) and cut out the centre. Raises BrokenImage.

    It is turned upright by its EXIF orientation, and transparency becomes white. time_ids are (original height, width,
    crop top, left, target height, width) as SDXL was trained with (2307.01952, section 2.2): the original size is that
    before resizing, the crop is in resized pixels of the image as it is seen, so of the mirrored one when `flip`.
    """
    height, width = size
    image, sideways = _opened(data)
    original_width, original_height = _upright_size(image, sideways)
    scale = max(width / original_width, height / original_height)
    resized = max(width, round(original_width * scale)), max(height, round(original_height * scale))
    image = _decoded(image, resized[::-1] if sideways else resized)
    if flip:
        image = ImageOps.mirror(image)
    if image.size != resized:
        image = image.resize(resized, Image.Resampling.LANCZOS)
    left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
    if image.size != (width, height):
        image = image.crop((left, top, left + width, top + height))
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    time_ids = [original_height, original_width, top, left, height, width]
    return PreparedImage(
        pixels=torch.from_numpy(pixels),
        time_ids=torch.tensor(time_ids, dtype=torch.float32),
    )


def fixed_time_ids(time_ids: Tensor) -> Tensor:
    """(..., 6) for any time_ids: those of a picture of the target size that is neither resized nor cropped.

    The pipeline conditions on these when it draws a picture of that size.
    """
    target = time_ids[..., 4:]
    return torch.cat([target, torch.zeros_like(target), target], dim=-1)


def whole_picture(data: bytes) -> Image.Image:
    """An image as it is seen, in RGB: upright, in its own size. Raises BrokenImage."""
    width, height = read_size(data)
    return Image.fromarray(load(data, (height, width)).pixels.numpy())


def to_pixel_values(pixels: Tensor) -> Tensor:
    """(N, height, width, 3) uint8 pixels as the VAE takes them: (N, 3, height, width) float32 in -1 .. 1."""
    return pixels.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1.0


def read_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an image as it is seen, from its header alone. Raises BrokenImage."""
    return _upright_size(*_opened(data))


def _opened(data: bytes) -> tuple[Image.Image, bool]:
    """The image with its header read, and whether it lies on its side."""
    image = open_picture(data)
    try:
        return image, image.getexif().get(ORIENTATION) in SIDEWAYS
    except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to
        raise BrokenImage(reason(error)) from None


def _upright_size(image: Image.Image, sideways: bool) -> tuple[int, int]:
    """(width, height)."""
    return image.size[::-1] if sideways else image.size


def _decoded(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """The image upright, in a mode that can be resized; smaller than it was where it is much larger than the target.

    target: (width, height) as the image lies.
    """
    try:
        image.draft(None, (DECODED_AT_LEAST * target[0], DECODED_AT_LEAST * target[1]))
        image.load()
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
        return image if image.mode in ("RGB", "L") else image.convert("RGB")
    except Exception as error:  # as above
        raise BrokenImage(reason(error)) from None
