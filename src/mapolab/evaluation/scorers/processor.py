"""How a judge's pictures and prompts become numbers, from the files beside its weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from transformers import PreTrainedTokenizerBase

from mapolab.errors import UserError
from mapolab.models.parts import load_tokenizer, tokenizer_files
from mapolab.models.readers import read_settings

Processor = TypeVar("Processor")
Tokenizer = TypeVar("Tokenizer", bound=PreTrainedTokenizerBase)
FILE = "preprocessor_config.json"
LARGEST_SIDE = 4096
SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
SIDES = ("size", "crop_size")
COLOURS = ("image_mean", "image_std")


def load_processor(scorer: str, kind: type[Processor], folder: Path) -> Processor:
    """transformers' processor of pictures of this class, with what preprocessor_config.json says of sizes and colours;
    the rest of the file names classes and code. Raises UserError where it makes no square pictures of three channels.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"{folder} does not say how {scorer} reads pictures: {FILE} is missing. Download it again.")
    values = read_settings(folder / FILE)
    kept = {
        key: values[key]
        for key in (*SWITCHES, *SIDES, *COLOURS, "resample", "rescale_factor")
        if values.get(key) is not None
    }
    try:
        if lacking := next((key for key in SIDES if key not in kept), None):
            raise ValueError(f"it lacks {lacking}")
        if wrong := next((key for key, value in kept.items() if not _is_sound(key, value)), None):
            raise ValueError(f"{wrong} is {kept[wrong]!r}")
        processor = kind(**kept)
        made = processor([Image.new("RGB", (48, 64), "gray")], return_tensors="pt")["pixel_values"]
        if made.shape != (1, 3, made.shape[-1], made.shape[-1]) or not made.isfinite().all():
            raise ValueError(f"it makes pictures of shape {tuple(made.shape[1:])}")
    except Exception as error:  # of transformers, for values that it does not check
        raise UserError(
            f"{folder / FILE} does not say how {scorer} reads pictures ({' '.join(str(error).split())[:200]}). "
            "Download it again."
        ) from None
    return processor


def _is_sound(key: str, value: Any) -> bool:
    if key in SWITCHES:
        return isinstance(value, bool)
    if key in SIDES:
        sides = list(value.values()) if isinstance(value, dict) else [value]
        return bool(sides) and all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides)
    if key in COLOURS:
        numbers = isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))
        return numbers and (key != "image_std" or min(value) > 0)
    return type(value) is int if key == "resample" else _is_number(value) and 0 < value <= 1


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def load_judges_tokenizer(scorer: str, kind: type[Tokenizer], folder: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer in a folder. vocabulary: how many words the model knows. Raises UserError where it makes others."""
    tokenizer = load_tokenizer(tokenizer_files(folder), kind)
    if (highest := max(tokenizer.get_vocab().values(), default=0)) >= vocabulary:
        raise UserError(
            f"The tokenizer in {folder} has a word with the number {highest}, but {scorer} knows {vocabulary} words. "
            "They do not belong together; download both again."
        )
    return tokenizer
