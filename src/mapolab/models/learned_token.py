"""A learned token: a word that the vocabulary lacked, with one embedding in each text encoder, which alone is trained.

Textual inversion (Gal et al. 2022, 2208.01618) for SDXL's two encoders; beside adapters it is pivotal tuning.

A pipeline that holds the token has it in both tokenizers and as one more row of both embedding tables. In training the
row is a parameter of its own, so that nothing else of the table can move. The files hold both rows in the layout of
SDXL's textual inversion: `clip_l` (1, D1) of the first encoder, `clip_g` (1, D2) of the second.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedModel

from mapolab.config.model_checks import TOKEN
from mapolab.errors import UserError
from mapolab.models.readers import read_whole
from mapolab.models.weights import is_finite

TOKEN_FILE = "learned_embeds.safetensors"
KEYS = ("clip_l", "clip_g")
# Of the row in the training module, whose other names depend on transformers' layout of the encoder.
NAME = re.compile(r"text_encoder(_2)?\..*token_embedding\.learned")


class LearnedRow(nn.Module):
    """A token embedding with one more row, (1, D), for the id `token`; the table itself is frozen.

    The row starts as that of the id `initial`. Switched off, as PEFT's layers are, it is that word again.
    """

    def __init__(self, table: nn.Embedding, token: int, initial: int):
        super().__init__()
        self.table, self.token, self.initial = table.requires_grad_(False), token, initial
        row = table.weight.detach()[initial : initial + 1]
        self.learned = nn.Parameter(row.to(torch.promote_types(row.dtype, torch.float32), copy=True))
        self.is_on = True

    def enable_adapters(self, enabled: bool) -> None:
        """PEFT's name for it."""
        self.is_on = enabled

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        is_token = ids == self.token
        embeddings = self.table(ids.masked_fill(is_token, self.initial))
        return torch.where(is_token[..., None], self.learned.to(embeddings.dtype), embeddings)


def ids_read(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The ids that a text encoder is to be given: where its learned row is off, the initial word's in its place.

    In the ids and not only in the embeddings, because SDXL's second encoder takes its pooled output from the position
    of the highest id.
    """
    row = model.get_input_embeddings()
    return ids.masked_fill(ids == row.token, row.initial) if isinstance(row, LearnedRow) and not row.is_on else ids


def learned_token(lora: dict[str, Any] | None) -> str | None:
    """The token that the block `model.lora` learns; None for the configs of older runs, too."""
    return (lora or {}).get("learned_token")


def check_token(token: str, initial: str, tokenizers: Iterable[CLIPTokenizer]) -> None:
    """Raise UserError unless both tokenizers lack the token and have the initial word as one token."""
    for tokenizer in tokenizers:
        if token in tokenizer.get_vocab():
            raise UserError(
                f"model.lora.learned_token={token} is in the model's vocabulary already. Choose another name."
            )
        pieces = tokenizer.tokenize(initial)
        if len(pieces) != 1 or tokenizer.convert_tokens_to_ids(pieces[0]) == tokenizer.unk_token_id:
            raise UserError(
                f"model.lora.token_initial={initial} is not one token of the model's vocabulary but {len(pieces)} "
                f"({' '.join(pieces)}). Choose a shorter or more common word for the kind of thing that it is."
            )


def learn_token(tokenizer: CLIPTokenizer, model: PreTrainedModel, token: str, initial: str) -> None:
    """Add the token, and give the model a row for it that can be trained; for a word that `check_token` let pass."""
    start = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(initial)[0])
    tokenizer.add_tokens(token)
    table = model.get_input_embeddings()
    model.set_input_embeddings(LearnedRow(table, tokenizer.convert_tokens_to_ids(token), start))


def learned_rows(models: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
    """The trained rows of text encoders, each (1, D)."""
    for model in models:
        yield from (module.learned for module in model.modules() if isinstance(module, LearnedRow))


def file_key(name: str) -> str | None:
    """`clip_l` or `clip_g` for the name of a learned row in the training module, None for any other tensor's."""
    found = NAME.fullmatch(name)
    return KEYS[found[1] is not None] if found else None


def read_token(file: Path) -> tuple[str, list[Tensor]]:
    """(token, its rows for both encoders) of a file that a run wrote. Raises UserError for any other."""
    rows, metadata = read_whole(file, "The learned token's file")
    sound = set(rows) == {*KEYS} and all(row.is_floating_point() and is_finite(row) for row in rows.values())
    # Another word, such as `a`, would be part of every prompt.
    if not re.fullmatch(TOKEN, metadata.get("token", "")) or not sound:
        raise UserError(
            f"{file} does not say which token it holds, such as <fox>, or has not {' and '.join(KEYS)} with finite "
            "numbers: mapolab did not write it. Move it elsewhere."
        )
    return metadata["token"], [rows[key] for key in KEYS]


def check_rows(token: str, row: Tensor, tokenizer: CLIPTokenizer, width: int) -> None:
    """Raise UserError for a vocabulary that has the token already, or a row of another width."""
    if row.shape != (1, width) or token in tokenizer.get_vocab():
        raise UserError(
            f"The learned token {token} does not fit the model: it exists there already, or its embedding of shape "
            f"{tuple(row.shape)} is none of the width {width}. Name the base that it was learned on."
        )


@torch.no_grad()
def put_token(tokenizer: CLIPTokenizer, model: PreTrainedModel, token: str, row: Tensor) -> None:
    """Add the token with its row (1, D) for good, as diffusers' `load_textual_inversion` does.

    Raises UserError for one that does not fit.
    """
    check_rows(token, row, tokenizer, model.get_input_embeddings().weight.shape[1])
    tokenizer.add_tokens(token)
    # Without a mean of the others, which would be computed over the whole table only to be replaced.
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = model.get_input_embeddings().weight
    table[tokenizer.convert_tokens_to_ids(token)] = row[0].to(table)
