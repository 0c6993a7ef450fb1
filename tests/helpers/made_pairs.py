"""What `make-pairs` leaves, read back."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from mapolab.reading import read_rows

PROMPTS = ("a fox", "two boats", "rain", "a red kite", "a cat")


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """The parquet rows in the order of the files."""
    return [row for file in sorted(folder.glob("*.parquet")) for row in parquet.read_table(file).to_pylist()]


def origins(folder: Path) -> list[dict[str, str]]:
    """The rows of pairs.csv."""
    return read_rows(folder / "pairs.csv")


def content(folder: Path) -> dict[str, bytes]:
    """What must not depend on how the command was run: all but the manifest, which tells when that was."""
    files = (file for file in folder.iterdir() if not file.name.startswith(".") and file.name != "manifest.json")
    return {file.name: file.read_bytes() for file in files}
