"""``make reliability``: docs/reliability.md from the rows that the tests of faults have left."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from mapolab import files

DOC = Path("docs") / "reliability.md"
MARKS = ("<!-- table: written by `make reliability` -->", "<!-- end of the table -->")


def main(folder: Path) -> None:
    rows = [files.read_json(file) for file in sorted(folder.glob("*.json"))]
    if not rows:
        sys.exit(f"There are no rows in {folder}: run `make reliability`.")
    rows.sort(key=lambda row: (row["test"].split("::")[0], row["fault"]))
    lines = [
        f"{len(rows)} faults, tried on {datetime.now(UTC):%Y-%m-%d} under {platform.system()}, without a GPU.",
        "",
        "| fault | promised | seen | test |",
        "|---|---|---|---|",
        *("| " + " | ".join(_cell(row[key]) for key in ("fault", "promised", "seen")) + _test(row) for row in rows),
    ]
    text = DOC.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    files.write_text(DOC, f"{before}{MARKS[0]}\n\n" + "\n".join(lines) + f"\n\n{MARKS[1]}{after}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _test(row: dict[str, str]) -> str:
    return f" | `{row['test'].split('::')[0]}` |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
