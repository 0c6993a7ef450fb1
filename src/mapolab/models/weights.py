"""Weights from safetensors files into a model, without ever holding two copies of them.

A safetensors file is mapped into memory, and every page that was read stays resident while the file is open. Reading it
all and converting its precision would thus hold both; here it is opened anew for every part.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mapolab.errors import UserError

Model = TypeVar("Model", bound=nn.Module)
BYTES_AT_ONCE = 256 << 20


def fill(model: Model, files: Sequence[Path], dtype: torch.dtype, names: dict[str, str] | None = None) -> Model:
    """Give a model on the meta device its weights, in `dtype`; peak memory is that of the weights and one part.

    names: each of the model's tensors to its name in the files; None: the same. Raises UserError for files that lack
    tensors, hold others, or hold them in other shapes.
    """
    expected = model.state_dict()
    wanted = {names[name] if names else name: name for name in expected}
    missing = set(expected)
    try:
        for key, tensor in _tensors(files, None if names is None else set(wanted)):
            name = wanted.get(key)
            if name is None or expected[name].shape != tensor.shape:
                found = "has no place in the model" if name is None else f"has the shape {tuple(tensor.shape)}"
                raise UserError(
                    f"The weights in {files[0].parent} do not fit their config: {key} {found}. Check that both belong "
                    "to the same SDXL model."
                )
            assign(model, name, tensor.to(dtype, copy=True))
            missing.discard(name)
    except SafetensorError as error:
        raise UserError(f"{files[0]} is no sound safetensors file ({error}). Fetch it again.") from None
    if missing:
        raise UserError(f"The weights in {files[0].parent} lack {min(missing)}. They are not whole; fetch them again.")
    return model


def _tensors(files: Sequence[Path], only: set[str] | None) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, "pt") as opened:
            keys = [key for key in opened.keys() if only is None or key in only]  # noqa: SIM118
        for part in _parts(file, keys):
            with safe_open(file, "pt") as opened:
                for key in part:
                    yield key, opened.get_tensor(key)


def _parts(file: Path, keys: list[str]) -> Iterator[list[str]]:
    """The keys in groups of about BYTES_AT_ONCE, in the file's order of tensors' sizes known from its header."""
    part, size = [], 0
    with safe_open(file, "pt") as opened:
        shapes = {key: opened.get_slice(key).get_shape() for key in keys}
    for key in keys:
        part.append(key)
        size += 4 * torch.Size(shapes[key]).numel()
        if size > BYTES_AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part


def assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` the parameter or buffer of this name."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor)
    else:
        module._buffers[leaf] = tensor


def read_whole(file: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file, small enough to hold at once. what: `The LoRA`.

    Raises UserError for a file that is none.
    """
    try:
        with safe_open(file, "pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{what} {file} {_no_safetensors(file, error)}") from None


def _no_safetensors(file: Path, error: Exception) -> str:
    """What a file is instead, and what to do."""
    try:
        with open(file, "rb") as opened:
            start = opened.read(64)
    except OSError:
        return f"cannot be read ({error}). Check its name and its permissions."
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS in place of the file. Fetch the file itself: git lfs pull."
    if start.startswith((b"PK\x03\x04", b"\x80")) or file.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        return "is a pickle, which can run any program when it is opened. Convert it to safetensors elsewhere."
    return f"is no sound safetensors file ({error}): it is cut short or something else. Fetch it again."
