"""``make reliability``: docs/reliability.md from the rows that the tests of faults have left."""

from __future__ import annotations

import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from mapolab import files

DOC = Path("docs") / "reliability.md"
MARKS = ("<!-- table: written by `make reliability` -->", "<!-- end of the table -->")


def main(folder: Path) -> None:
    """Rows that were not seen again stay, with their day, as long as their test is there."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    rows = {
        _key(row): row | {"day": today} for row in (files.read_json(file) for file in sorted(folder.glob("*.json")))
    }
    if not rows:
        sys.exit(f"There are no rows in {folder}: run `make reliability`.")
    text = DOC.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    table, after = rest.split(MARKS[1])
    kept = {_key(row): row for row in map(_row, table.splitlines()) if row and Path(row["test"]).is_file()}
    ordered = sorted((kept | rows).values(), key=_key)
    lines = [
        f"{len(ordered)} faults, tried under {platform.system()}, without a GPU.",
        "",
        "| fault | promised | seen | test | day |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(map(_cell, _cells(row)))} |" for row in ordered),
    ]
    files.write_text(DOC, f"{before}{MARKS[0]}\n\n" + "\n".join(lines) + f"\n\n{MARKS[1]}{after}")


def _key(row: dict[str, str]) -> tuple[str, str]:
    return row["test"].split("::")[0], row["fault"]


def _cells(row: dict[str, str]) -> list[str]:
    return [row["fault"], row["promised"], row["seen"], f"`{_key(row)[0]}`", row["day"]]


def _row(line: str) -> dict[str, str] | None:
    """What a line of the table says; None for any other line."""
    cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    if len(cells) != 5 or not cells[3].startswith("`"):
        return None
    return dict(zip(("fault", "promised", "seen", "test", "day"), cells, strict=True)) | {"test": cells[3].strip("`")}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
