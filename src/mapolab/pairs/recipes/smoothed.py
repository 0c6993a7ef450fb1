"""A data set's pairs judged anew: a scorer says which picture is preferred, and how surely. SmPO (2506.02698)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapolab.data.image_ids import check_image_ids, contents_of, repeated
from mapolab.data.records import Blocks, Records, RowText, Source
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
from mapolab.pairs.drawing import left_out
from mapolab.pairs.held_out import HeldOut
from mapolab.pairs.material import Contest, Material, Picture


def smoothed(config: dict[str, Any], held_out: HeldOut) -> Material:
    """Every row with a caption, its label to be replaced; rows with a broken image are left out when they are read.

    Pictures stay on their sides. Raises UserError for data that is not there, or not of pairs.
    """
    cache = Path(config["output_root"]) / ".cache"
    source = open_source(config["data_path"], config["split"], config["revision"], cache, config["download_cache_gb"])
    if source.images_per_row != 2:
        raise UserError(
            f"data_path={config['data_path']} has single images, and there is nothing to compare. Give pairs."
        )
    texts = [text for block in range(len(source.block_sizes)) for text in source.texts(block)]
    rows = list(enumerate(texts))[: config["limit"]]
    _check_ids(source, [text for _, text in rows])
    sound = [item for item in rows if item[1].caption]
    kept = held_out(sound, lambda item: item[1].caption or "", lambda item: item[1].image_ids)
    contests = [
        Contest(text.caption or "", (_picture(source, row, text, 0), _picture(source, row, text, 1)), row, None, 0)
        for row, text in kept
    ]
    about = {"data": source.fingerprint, "rows": len(rows)}
    dropped = left_out(len(sound) - len(kept))
    if len(sound) < len(rows):
        dropped["no caption"] = len(rows) - len(sound)
    return Material(about, contests, RowReader(source), dropped=dropped)


def _check_ids(source: Source, texts: Sequence[RowText]) -> None:
    """Raise UserError where an image id names several images of these rows: scores are kept by id."""
    ids = np.array([text.image_ids or ("", "") for text in texts], dtype=object)
    wanted = repeated(ids) if len(ids) else np.zeros((0, 2), dtype=bool)
    wanted &= ids.astype(bool)
    blocks, contents = Blocks(source.block_sizes), np.zeros(wanted.shape, dtype=np.int64)
    for block in range(len(blocks)):
        rows = blocks.range(block)
        asked = np.zeros((len(rows), 2), dtype=bool)
        here = wanted[rows.start : rows.stop]
        asked[: len(here)] = here
        contents[rows.start : rows.stop] = contents_of(source, block, asked)[: len(here)]
    check_image_ids(source, ids, contents)


class RowReader:
    """Reads images of rows, a block at a time: pictures that are asked for in the order of their rows cost no more."""

    def __init__(self, source: Source) -> None:
        self.source, self.blocks = source, Blocks(source.block_sizes)
        self.held: tuple[int, Records] | None = None

    def __call__(self, picture: Picture) -> bytes:
        """Raises BrokenRow, and RunError when a remote does not answer."""
        row, side = picture.place
        block, offset = self.blocks.find(row)
        if self.held is None or self.held[0] != block:
            self.held = block, self.source.records(block)
        return self.held[1][offset].images[side].data


def _picture(source: Source, row: int, text: Any, side: int) -> Picture:
    return Picture(text.image_ids[side], (row, side), scope=source.fingerprint)
