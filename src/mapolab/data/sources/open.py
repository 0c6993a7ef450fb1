"""From the `data` block of a config to its source."""

from pathlib import Path
from typing import Any

from mapolab.data.records import Source
from mapolab.data.sources.folder import FolderSource, is_image_folder
from mapolab.data.sources.index import load_index
from mapolab.data.sources.locate import locate
from mapolab.data.sources.parquet import ParquetSource
from mapolab.data.sources.remote import DataFile, RangeCache, open_remote
from mapolab.paths import resolve


def open_source(
    path: str, split: str | None, revision: str | None, cache_folder: Path, download_cache_gb: float
) -> Source:
    """The rows that a path names: a parquet file, a folder of them or of images, a URL, or a data set on the hub.

    cache_folder: where indices and fetched data are kept. download_cache_gb: disk space for the latter.
    Raises UserError if there is nothing usable, RunError if a remote does not answer.
    """
    if is_image_folder(resolve(path)):
        return FolderSource(resolve(path))
    located = locate(path, split, revision)
    wanted = located.remote and download_cache_gb > 0
    cache = RangeCache(cache_folder / "downloads", int(download_cache_gb * 1e9)) if wanted else None
    index = load_index(located, _open_remotely if located.remote else _open_locally, cache_folder / "index")
    return ParquetSource(index, located.remote, cache)


def _open_locally(file: DataFile) -> Any:
    return open(file.url, "rb")


def _open_remotely(file: DataFile) -> Any:
    # Without the cache, whose pieces are much larger than a footer.
    return open_remote(file, None)
