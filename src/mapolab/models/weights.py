"""Weights from safetensors files into a model: each tensor has its place and each place its tensor, or the files are
refused. Two copies of the weights are never held.

A safetensors file is mapped into memory, and every page that was read stays resident while the file is open. Reading it
all and converting its precision would thus hold both; here it is opened anew for every part.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mapolab.errors import UserError
from mapolab.files import read_json
from mapolab.hashes import remembered

Model = TypeVar("Model", bound=nn.Module)
Place = Callable[[str, Tensor], list[tuple[str, Tensor]] | None]
"""Where a tensor of a file belongs: (name in the model, tensor) once or more often, nothing for one that no model
needs, None for one that has no place."""

BYTES_AT_ONCE = 256 << 20
FORMATS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
NO_FLOAT = torch.uint8  # stands for all others, which no model here has


@dataclass(frozen=True)
class WeightFiles:
    """The safetensors files that hold one model, or several of which `prefix` begins this one's names.

    index: of a model in several files, the file that says which of them has which tensor.
    """

    files: tuple[Path, ...]
    index: Path | None = None
    prefix: str = ""

    def __str__(self) -> str:
        return str(self.files[0].parent if not self.prefix else self.files[0])


def find_weights(folder: Path, stem: str, variant: str | None) -> WeightFiles:
    """The files that diffusers and transformers read for `<stem>.safetensors` of a variant.

    Raises UserError where there are none, where there are two sets (of which the two libraries choose different ones),
    and for an index of files that are not there.
    """
    middle = f".{variant}" if variant else ""
    single = folder / f"{stem}{middle}.safetensors"
    indices = [folder / f"{stem}.safetensors.index{middle}.json", folder / f"{stem}{middle}.safetensors.index.json"]
    found = [file for file in dict.fromkeys([single, *indices]) if file.is_file()]
    if not found:
        raise UserError(_no_weights(folder, stem, variant))
    if len(found) > 1:
        raise UserError(
            f"{folder} holds two sets of weights, {found[0].name} and {found[1].name}, and nothing says which one is "
            "meant. Move one of them elsewhere."
        )
    if found[0] == single:
        return WeightFiles((single,))
    names = sorted(set(_weight_map(found[0]).values()))
    for name in names:
        if not (folder / name).is_file():
            raise UserError(
                f"The weights in {folder} are not whole: {name} is missing, which {found[0].name} names. Fetch it "
                "again."
            )
    return WeightFiles(tuple(folder / name for name in names), found[0])


def _no_weights(folder: Path, stem: str, variant: str | None) -> str:
    others = sorted(file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".ckpt", ".pt"))
    there = f"there is {', '.join(others)}" if others else "there are no others"
    kind = f"in the variant {variant}" if variant else f"named {stem}.safetensors"
    return f"{folder} has no safetensors weights {kind}; {there}. Give the variant that is there, or other weights."


def _weight_map(index: Path) -> dict[str, str]:
    """tensor -> file of an index. Raises UserError for what is none."""
    places = read_settings(index).get("weight_map")
    sound = isinstance(places, dict) and places
    if not sound or not all(isinstance(name, str) and Path(name).name == name for name in places.values()):
        raise UserError(f"{index} is no index of weights: its weight_map is not one of tensors to files beside it.")
    return places


def read_settings(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError for what is none."""
    try:
        value = read_json(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no sound JSON ({_words(error)}).{_pointer(file)} Fetch it again.") from None
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no JSON object. Fetch it again.")
    return value


def check(model: nn.Module, weights: WeightFiles, place: Place) -> None:
    """Raise UserError unless `fill` can fill this model on the meta device. Reads the files' headers, and their numbers
    once: weights that are not finite are refused too."""
    needed = {key for key, pairs in _fitting(model, weights, place, _headers(weights)) for _ in pairs}
    for file in weights.files:
        names = remembered(file, f"not finite: {weights.prefix}", lambda file: _not_finite(file, weights.prefix))
        for name in names:
            if name in needed:
                raise UserError(_broken(weights, name))


def fill(model: Model, weights: WeightFiles, dtype: torch.dtype, place: Place) -> Model:
    """Give a model on the meta device its weights, in `dtype`; peak memory is that of the weights and one part.

    Raises UserError for files that lack tensors, hold others, hold them in other shapes or twice, or hold numbers that
    are not finite in `dtype`.
    """
    for key, pairs in _fitting(model, weights, place, tensors(weights)):
        for name, tensor in pairs:
            converted = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
            if not is_finite(converted):
                raise UserError(_broken(weights, key, dtype if is_finite(tensor) else None))
            assign(model, name, converted)
    return model


def _fitting(
    model: nn.Module, weights: WeightFiles, place: Place, found: Iterator[tuple[str, Tensor]]
) -> Iterator[tuple[str, list[tuple[str, Tensor]]]]:
    """Each tensor's name in the files with its places; raises UserError where the two do not fit."""
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = set(expected)
    for key, tensor in found:
        pairs = place(key, tensor)
        fault = None
        if pairs is None:
            fault = "has no place in the model"
        elif pairs and not tensor.is_floating_point():
            fault = "does not hold floating-point numbers of 8 to 64 bits (a quantised model cannot be read)"
        for name, part in pairs or []:
            if expected[name] != part.shape:
                fault = f"has the shape {tuple(tensor.shape)}, and {name} needs {tuple(expected[name])}"
            elif name not in missing:
                fault = f"is there twice: {name} has its tensor already"
            missing.discard(name)
        if fault:
            raise UserError(
                f"The weights in {weights} do not fit their config: {key} {fault}. Check that both belong to the same "
                "SDXL model."
            )
        yield key, pairs
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UserError(
            f"The weights in {weights} lack {min(missing)}{others}. They are not whole, or of another model; fetch "
            "them again."
        )


def _broken(weights: WeightFiles, key: str, dtype: torch.dtype | None = None) -> str:
    if dtype is None:
        return f"The weights in {weights} are broken: {key} holds numbers that are not finite. Fetch them again."
    name = str(dtype).removeprefix("torch.")
    return (
        f"The weights in {weights} do not fit into {name}: {key} overflows there. Take float32 (precision=, or "
        "model.vae_dtype, model.encoder_dtype, model.frozen_dtype)."
    )


def _keys(weights: WeightFiles, file: Path) -> list[str]:
    """The names in a file that count; raises UserError where the index says otherwise."""
    with opened(file) as content:
        keys = [key for key in content.keys() if key.startswith(weights.prefix)]  # noqa: SIM118
    if weights.index:
        said = {key for key, name in _weight_map(weights.index).items() if name == file.name}
        if differing := said ^ set(keys):
            raise UserError(
                f"The weights in {weights} are not whole: {min(differing)} is in only one of {file.name} and what "
                f"{weights.index.name} says of it. Fetch both again."
            )
    return keys


def _headers(weights: WeightFiles) -> Iterator[tuple[str, Tensor]]:
    """Each tensor's name with one like it on the meta device; without the numbers of the files."""
    for file in weights.files:
        keys = _keys(weights, file)
        with opened(file) as content:
            slices = {key: content.get_slice(key) for key in keys}
            found = {key: (one.get_shape(), FORMATS.get(one.get_dtype(), NO_FLOAT)) for key, one in slices.items()}
        for key, (shape, dtype) in found.items():
            yield key, torch.empty(shape, dtype=dtype, device="meta")


def tensors(weights: WeightFiles) -> Iterator[tuple[str, Tensor]]:
    """Each tensor that counts, with its name in the files."""
    for file in weights.files:
        for part in _parts(file, _keys(weights, file)):
            with opened(file) as content:
                for key in part:
                    yield key, content.get_tensor(key)


def _parts(file: Path, keys: list[str]) -> Iterator[list[str]]:
    """The keys in groups of about BYTES_AT_ONCE, by the sizes in the file's header."""
    part, size = [], 0
    with opened(file) as content:
        shapes = {key: content.get_slice(key).get_shape() for key in keys}
    for key in keys:
        part.append(key)
        size += 4 * torch.Size(shapes[key]).numel()
        if size > BYTES_AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part


def _not_finite(file: Path, prefix: str) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    found = tensors(WeightFiles((file,), prefix=prefix))
    return [key for key, tensor in found if tensor.is_floating_point() and not is_finite(tensor)]


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    return bool((tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all())


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Any]:
    """An open safetensors file. Raises UserError for one that is not there, or not whole."""
    try:
        with safe_open(file, "pt") as content:
            yield content
    except FileNotFoundError:
        raise UserError(f"{file} does not exist. Name a .safetensors file.") from None
    except (SafetensorError, OSError) as error:
        empty = " (it is empty)" if file.is_file() and not file.stat().st_size else f" ({_words(error)})"
        raise UserError(f"{file} is no sound safetensors file{empty}.{_pointer(file)} Fetch it again.") from None


def _pointer(file: Path) -> str:
    """A sentence on a file that only stands for one that Git LFS has not fetched; else nothing."""
    with contextlib.suppress(OSError), open(file, "rb") as content:
        if content.read(30).startswith(b"version https://git-lfs"):
            return " It is a pointer of Git LFS, not the file itself: `git lfs pull` fetches that."
    return ""


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


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
