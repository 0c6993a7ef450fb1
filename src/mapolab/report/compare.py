"""`mapolab compare`: from the folders of evaluated models to tables and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from mapolab.files import sweep, write_json, write_together
from mapolab.output import COMPARISON, OutputFolder
from mapolab.report.collect import collect, common_parent
from mapolab.report.csvs import pairs_csv, scores_csv, summary_csv
from mapolab.report.latex import summary_latex
from mapolab.report.legends import legend
from mapolab.report.mismatch import other_mismatches, own_mismatch
from mapolab.report.page import render_page
from mapolab.report.summary import compare_methods
from mapolab.report.tables import rich_tables, summary_markdown
from mapolab.texts import rich_text, say

TABLES = ("summary.md", "summary.csv", "summary.tex", "pairs.csv", "scores_long.csv")


def compare(config: dict[str, Any]) -> Path:
    """Write `TABLES`, summary.json and report/index.html, for what `config` names; prints tables.

    config: runs (folders or patterns), base (None: the runs' own), different_settings, beside (other comparisons, for
    the plot of reference mismatch), output_dir (None: comparison/ in the runs' common parent), confidence.
    Returns the path of the page. Raises UserError where runs cannot be compared.
    """
    base, methods = collect(config["runs"], config.get("base"), config.get("different_settings", False))
    comparison = compare_methods(base, methods, config["confidence"])
    mismatch = own_mismatch(comparison)
    beside = config.get("beside") or []
    others = other_mismatches(beside, comparison, mismatch.features if mismatch else "none") if beside else []
    folder = Path(config["output_dir"]) if config["output_dir"] else common_parent(methods) / "comparison"
    page = folder / "report" / "index.html"
    output = OutputFolder(folder, COMPARISON)
    with output.locked():
        for place in (folder, page.parent):
            sweep(place)
        # First of all it says what the folder is, so that a killed command finds it again.
        write_json(folder / "summary.json", {"mismatch": None})
        texts = {
            "summary.csv": summary_csv(comparison),
            "pairs.csv": pairs_csv(comparison),
            "scores_long.csv": scores_csv(comparison),
            "summary.md": summary_markdown(comparison),
            "summary.tex": summary_latex(comparison),
            "report/index.html": render_page(comparison, [*([mismatch] if mismatch else []), *others]),
        }
        output.lock.check()
        write_together(folder, texts)
        write_json(folder / "summary.json", {"mismatch": mismatch.about() if mismatch else None})
    console = Console()
    for table in rich_tables(comparison):
        console.print(table)
    if comparison.scores:
        console.print(rich_text(legend(comparison), "dim"))
    say(f"Tables: {', '.join(str(folder / name) for name in TABLES)}")
    say(f"Report: {page}")
    return page
