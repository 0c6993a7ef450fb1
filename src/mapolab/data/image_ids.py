"""Image ids that name more than one image: caches and scores that are kept by id would take one for the other."""

import zlib

import numpy as np

from mapolab.data.records import BrokenRow, Source
from mapolab.errors import UserError


def check_image_ids(source: Source, ids: np.ndarray, contents: np.ndarray) -> None:
    """Raise UserError where an id has more than one image.

    ids: (N, K), whatever is equal for equal ids. contents: (N, K) as `contents_of` gives them.
    """
    flat, known = ids.reshape(-1), contents.reshape(-1)
    places = np.flatnonzero(known)
    order = places[np.argsort(flat[places], kind="stable")]
    differs = (flat[order][1:] == flat[order][:-1]) & (known[order][1:] != known[order][:-1])
    if not differs.any():
        return
    pair = int(np.flatnonzero(differs)[0])
    (row, side), (other, _) = (divmod(int(place), ids.shape[1]) for place in order[pair : pair + 2])
    raise UserError(
        f"The id of image {side} in {source.name(row)} also names another image, in {source.name(other)}, and so do "
        f"{int(differs.sum()) - 1} others: what is kept by id would be taken for the wrong image. Give every image an "
        "id of its own (image_0_uid, image_1_uid), or leave these columns out."
    )


def contents_of(source: Source, block: int, wanted: np.ndarray) -> np.ndarray:
    """(rows, K) int64: size and CRC-32 of the images of a block, 0 where they are not wanted or broken.

    wanted: (rows, K) bool. Nothing is read where none is.
    """
    found = np.zeros(wanted.shape, dtype=np.int64)
    if not wanted.any():
        return found
    records = source.records(block)
    for offset in np.flatnonzero(wanted.any(axis=1)).tolist():
        try:
            images = records[offset].images
        except BrokenRow:
            continue
        found[offset] = [len(image.data) << 32 | zlib.crc32(image.data) for image in images]
    return np.where(wanted, found, 0)


def repeated(ids: np.ndarray) -> np.ndarray:
    """(N, K) bool: which of the ids occur more than once."""
    _, inverse, counts = np.unique(ids.reshape(-1), return_inverse=True, return_counts=True)
    return (counts > 1)[inverse.reshape(-1)].reshape(ids.shape)
