"""Files of weights and of their settings, whoever wrote them: data is read from them, and nothing that they name is
imported, called or fetched.

Weights are safetensors, or PyTorch's files of judges, of which only tensors are taken. A file that is cut short, is
something else or says what cannot be is refused in one paragraph.
"""

import contextlib
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mapolab.errors import UserError
from mapolab.texts import odd_character, one_line

# Of a config or an index of weights, far above any there is; json takes about ten times that in memory.
SETTINGS_BYTES = 16 << 20
# Of tensors: SDXL's names have 96 characters at most, and a checkpoint with averages 5,000 of them. safetensors itself
# refuses headers above 100 MB.
NAME_LENGTH, MOST_TENSORS = 500, 100_000
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def read_settings(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError for what is none."""
    try:
        with open(file, "rb") as content:
            return parse_settings(content.read(SETTINGS_BYTES + 1))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no sound JSON ({_words(error)}).{_pointer(file)} Fetch it again.") from None


def parse_settings(text: str | bytes) -> dict[str, Any]:
    """The object in a JSON text. Raises ValueError for what is none, is too deep or has more than 16 MB."""
    if len(text) > SETTINGS_BYTES:
        raise ValueError(f"it has more than {SETTINGS_BYTES >> 20} MB")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


@contextlib.contextmanager
def opened(file: Path, what: str = "") -> Iterator[Any]:
    """An open safetensors file. what: begins the message, as in `The LoRA `.

    Raises UserError for one that is not there, is not whole, or is another kind of file.
    """
    try:
        if not file.is_file():
            raise FileNotFoundError("it does not exist")
        with safe_open(file, "pt") as content:
            if (odd := next((name for name in content.keys() if _is_odd(name)), None)) is not None:  # noqa: SIM118
                raise SafetensorError(f"it has a tensor named {odd[:40]!r}, of {len(odd)} characters")
            if len(content.keys()) > MOST_TENSORS:
                raise SafetensorError(f"it has {len(content.keys())} tensors")
            yield content
    except (SafetensorError, OSError) as error:
        raise UserError(f"{what}{file} {_fault(file, error)}") from None


def read_whole(file: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file, small enough to hold at once. what: `The LoRA`.

    Raises UserError for a file that is none.
    """
    with opened(file, f"{what} ") as content:
        return {name: content.get_tensor(name) for name in content.keys()}, content.metadata() or {}  # noqa: SIM118


def read_checkpoint(what: str, file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of PyTorch's: a state dict, alone or as `state_dict` beside other data.

    The latter by torch.load(weights_only=True), without the classes that other packages have added to what it makes,
    and whatever the file is called. what: whose weights they are. Raises UserError for anything but plain tensors on
    the CPU with a name each, and for a compressed file, which may grow without end.
    """
    try:
        if file.suffix == ".safetensors":
            return read_whole(file, f"The file of weights of {what}")[0]
        content = _load_tensors_only(file)
        content = content.get("state_dict", content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or not content:
            raise ValueError("it holds no state dict")
        for name, tensor in content.items():
            if not isinstance(name, str) or _is_odd(name) or not _is_plain(tensor):
                raise ValueError(f"{name[:40] if isinstance(name, str) else type(name)!r} is no plain tensor")
        return {name: tensor.detach() for name, tensor in content.items()}
    except UserError:
        raise
    except Exception as error:  # of pickle, zipfile and torch, for bytes that anyone may have written
        raise UserError(
            f"The weights of {what} in {file} cannot be read ({type(error).__name__}: {_words(error)})."
            f"{_pointer(file)} Download the file again."
        ) from None


def _load_tensors_only(file: Path) -> Any:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed, as torch.save does not do")
    added = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # whose text advises to load it all the same
        raise ValueError("it is damaged, or holds more than tensors, which may be a program") from None
    finally:
        torch.serialization.add_safe_globals(added)


def _is_plain(tensor: Any) -> bool:
    """A dense tensor with numbers of its own: one may say that it repeats a single number without end."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )


def _is_odd(name: str) -> bool:
    return not 0 < len(name) <= NAME_LENGTH or name != one_line(name) or odd_character(name) is not None


def _fault(file: Path, error: Exception) -> str:
    """What a file is in place of a safetensors file, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "does not exist. Name a .safetensors file."
    try:
        with open(file, "rb") as content:
            start = content.read(64)
    except OSError:
        return f"cannot be read ({_words(error)}). Check its name and its permissions."
    if start.startswith((b"PK\x03\x04", b"\x80")) or (file.suffix in PICKLES and not _pointer(file)):
        return "is a pickle, which can run any program when it is opened. Convert it to safetensors elsewhere."
    detail = _words(error) if start else "it is empty"
    return (
        f"is no sound safetensors file ({detail}): it is cut short or something else.{_pointer(file)} Fetch it again."
    )


def _pointer(file: Path) -> str:
    """A sentence on a file that only stands for one that Git LFS has not fetched; else nothing."""
    with contextlib.suppress(OSError), open(file, "rb") as content:
        if content.read(30).startswith(b"version https://git-lfs"):
            return " It is a pointer of Git LFS, not the file itself: `git lfs pull` fetches that."
    return ""


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
