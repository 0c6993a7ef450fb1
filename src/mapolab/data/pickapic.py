"""The schema of Pick-a-Pic v2 (`yuvalkirstain/pickapic_v2`), for those who write preference pairs."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mapolab.data.records import TIE

# Column by column.
SCHEMA = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)
ROW_GROUP = 128  # rows; every loader process holds some row groups as a whole


def pair_row(
    index: int,
    caption: str,
    images: Sequence[bytes],
    uids: Sequence[str],
    models: Sequence[str | None],
    label: float,
    examples: int | None,
) -> dict[str, Any]:
    """The row of one pair, number `index` of its data set.

    images: two encoded image files; uids: their names; models: what drew them. label: 1, the first is preferred; 0, the
    second; 0.5, neither; between them, how sure that is. examples: pairs of this caption.
    """
    tie = label == TIE
    return {
        "are_different": not tie,
        "best_image_uid": "tie" if tie else uids[0 if label > TIE else 1],
        "caption": caption,
        "created_at": None,
        "has_label": True,
        **{f"image_{side}_uid": uid for side, uid in enumerate(uids)},
        **{f"image_{side}_url": None for side in range(2)},
        **{f"jpg_{side}": data for side, data in enumerate(images)},
        **{f"model_{side}": model for side, model in enumerate(models)},
        "label_0": label,
        "label_1": 1 - label,
        "ranking_id": index,
        "user_id": 0,
        "num_example_per_prompt": examples,
        "__index_level_0__": index,
    }
