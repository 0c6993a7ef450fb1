"""Weights from safetensors files into a model: each tensor has its place and each place its tensor, or the files are
refused. Two copies of the weights are never held.

A safetensors file is mapped into memory, and every page that was read stays resident while the file is open. Reading it
all and converting its precision would thus hold both; here it is opened anew for every part.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from mapolab.errors import UserError
from mapolab.hashes import remembered
from mapolab.models.readers import PICKLES, opened, read_settings

Model = TypeVar("Model", bound=nn.Module)
Place = Callable[[str, Tensor], list[tuple[str, Tensor]] | None]
"""Where a tensor of a file belongs: (name in the model, tensor) once or more often, nothing for one that no model
needs, None for one that has no place."""

BYTES_AT_ONCE = 256 << 20
FILE_NAME = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)  # of a part of the weights, as an index has it
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
    others = sorted(file.name for file in folder.iterdir() if file.suffix in (".safetensors", *PICKLES))
    there = f"there is {', '.join(others)}" if others else "there are no others"
    kind = f"in the variant {variant}" if variant else f"named {stem}.safetensors"
    return f"{folder} has no safetensors weights {kind}; {there}. Give the variant that is there, or other weights."


def _weight_map(index: Path) -> dict[str, str]:
    """tensor -> file of an index. Raises UserError for what is none."""
    places = read_settings(index).get("weight_map")
    sound = isinstance(places, dict) and places
    if not sound or not all(isinstance(name, str) and FILE_NAME.fullmatch(name) for name in places.values()):
        raise UserError(f"{index} is no index of weights: its weight_map is not one of tensors to files beside it.")
    return places


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
    for name, buffer in model.named_buffers():
        if buffer.is_meta:  # counted, not read; no other is in SDXL's parts and the judges
            if not name.endswith("position_ids"):
                raise UserError(f"The config of the weights in {weights} asks for {name}, which no file holds.")
            assign(model, name, torch.arange(buffer.shape[-1]).expand(buffer.shape))
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
                "model."
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


def assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` the parameter or buffer of this name."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor)
    else:
        module._buffers[leaf] = tensor
