"""Pictures from elsewhere, opened in one way: by formats that Pillow decodes in this process, and within bounds.

Pillow would hand others to programs: Ghostscript draws what an EPS says. Of an animation the first frame alone is
decoded. Pillow itself bounds what a file's metadata may take (1 MB a text or colour profile, 64 MB together).
"""

import io
import warnings
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from mapolab.errors import UserError
from mapolab.files import read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
# Above this Pillow warns of a decompression bomb, and raises at twice that. Decoding takes some four bytes a pixel.
MOST_PIXELS = 89_478_485
MOST_BYTES = 256 << 20  # of a file

# What is wrong with a picture is an exception, or does not matter: there may be thousands of lines about one file.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BrokenImage(ValueError):
    """Bytes that are no usable image; the message is a short reason."""


def open_picture(data: bytes) -> Image.Image:
    """The picture with its header read; nothing is decoded. Raises BrokenImage."""
    if not data:
        raise BrokenImage("missing or empty")
    if len(data) > MOST_BYTES:
        raise BrokenImage(f"larger than {MOST_BYTES >> 20} MiB")
    # Another package may have switched it on: half pictures would be grey below.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise BrokenImage("too many pixels") from None
    except UnidentifiedImageError:
        raise BrokenImage("no image file") from None
    except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to
        raise BrokenImage(reason(error)) from None
    if 0 in picture.size:
        raise BrokenImage("of no size")
    if picture.width * picture.height > MOST_PIXELS:
        raise BrokenImage("too many pixels")
    return picture


def load_picture(file: Path, fix: str) -> Image.Image:
    """A file's picture in RGB, as its pixels lie. Raises UserError for a file that is no whole picture; fix: what to do
    then."""
    try:
        return decode_rgb(read_regular(file, MOST_BYTES))
    except OSError as error:
        raise UserError(f"The picture {file} cannot be read ({error.strerror}). {fix}") from None
    except BrokenImage as error:
        raise UserError(f"The picture {file} is broken ({error}). {fix}") from None


def decode_rgb(data: bytes) -> Image.Image:
    """A picture in RGB, as its pixels lie. Raises BrokenImage."""
    with open_picture(data) as picture:
        try:
            return picture.convert("RGB")
        except Exception as error:  # as above
            raise BrokenImage(reason(error)) from None


def reason(error: Exception) -> str:
    """One short line of what Pillow says."""
    return "cut off" if "truncated" in str(error) else f"not decodable: {' '.join(str(error).split())[:80]}"
