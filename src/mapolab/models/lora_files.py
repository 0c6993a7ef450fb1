"""The files of a LoRA: its own, PEFT's settings and a learned token beside it; all of them are read, or refused."""

from pathlib import Path

from torch import Tensor, nn

from mapolab.errors import UserError
from mapolab.models.learned_token import TOKEN_FILE, check_rows, read_token
from mapolab.models.lora_names import PARTS
from mapolab.models.lora_reader import PEFT_CONFIG, Lora, LoraReader
from mapolab.models.readers import read_whole
from mapolab.models.sdxl import SDXL

LORA_FILE = "pytorch_lora_weights.safetensors"


def lora_file(path: Path) -> Path:
    """The file of a LoRA that is given as a file or a folder. Raises UserError where the folder leaves a choice."""
    if path.is_file():
        return path
    names = sorted(file.name for file in path.glob("[!.]*.safetensors") if file.name != TOKEN_FILE)
    if LORA_FILE in names or len(names) == 1:
        return path / (LORA_FILE if LORA_FILE in names else names[0])
    raise UserError(f"{path} holds {len(names) or 'no'} .safetensors files. Name the LoRA's own file: lora: <file>.")


def lora_files(path: Path) -> list[Path]:
    """Every file that decides what loading this LoRA gives: its own, PEFT's config and the learned token beside it."""
    file = lora_file(path)
    return [file, *(other for other in (file.parent / PEFT_CONFIG, file.parent / TOKEN_FILE) if other.is_file())]


def check_lora(path: Path, sdxl: SDXL) -> None:
    """Raise UserError unless all of a LoRA, and the token beside it, fits this model. Reads no weight of the model."""
    read_lora(path, sdxl.empty_models(), sdxl.pretrained)
    if found := token_beside(path):
        for tokenizer, part, row in zip(sdxl.load_tokenizers(), PARTS[1:], found[1], strict=True):
            check_rows(found[0], row, tokenizer, sdxl.parts.config(part)["hidden_size"])


def token_beside(path: Path) -> tuple[str, list[Tensor]] | None:
    """The token that was learned with a LoRA, and its rows, from the file beside the adapters."""
    file = lora_file(path).parent / TOKEN_FILE
    return read_token(file) if file.is_file() else None


def read_lora(path: Path, models: dict[str, nn.Module], base: str) -> Lora:
    """All of a LoRA's file. models: the parts of the pipeline, on any device, without adapters. base: its name.

    Raises UserError for a file with anything that has no place in the models, for half an adapter, for other shapes or
    ranks than the layers and the settings ask for, for values that are not finite, and where alpha is not known.
    """
    file = lora_file(path)
    tensors, metadata = read_whole(file, "The LoRA")
    return LoraReader(file, base, models, tensors, metadata).read()
