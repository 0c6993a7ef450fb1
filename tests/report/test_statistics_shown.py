"""What a paper takes from a comparison: LaTeX, published figures apart, mismatch, tables for the terminal."""

import csv
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.evaluation.differences import holm
from mapolab.files import read_json, write_json
from mapolab.reading import read_rows
from mapolab.report.categories import category_table
from mapolab.report.collect import collect
from mapolab.report.compare import compare
from mapolab.report.costs import COST_HEADERS, COSTS
from mapolab.report.csvs import pairs_csv
from mapolab.report.latex import summary_latex
from mapolab.report.published import published_rows
from mapolab.report.summary import compare_methods
from mapolab.report.svg import LABEL_GAP, apart, css_colour, key_mark, method_line, method_marker
from mapolab.report.tables import rich_tables
from mapolab.texts import latex

PATTERN = "outputs/emoji_style/*"


@pytest.fixture
def comparison(three_methods):
    return compare_methods(*collect(PATTERN), 0.95)


def test_latex_marks_the_best_and_what_is_measurable(comparison) -> None:
    text = summary_latex(comparison)
    rows = dict(line.split(" & ", 1) for line in text.splitlines() if " & $" in line)
    assert set(rows) == {"Base model", "SFT", "MaPO", "Diffusion-DPO"}
    style = {name: cells.split(" & ")[0] for name, cells in rows.items()}
    assert r"\mathbf" in style["MaPO"] and not any(r"\mathbf" in style[name] for name in style if name != "MaPO")
    assert all("^{*}" in style[name] for name in style if name != "Base model") and "^{*}" not in style["Base model"]
    assert all(line.count("&") == 3 for line in text.splitlines() if line.endswith(r"\\"))
    assert not re.search(r"(?<!\\)[%_#]", "".join(line for line in text.splitlines() if not line.startswith("%")))
    assert latex(r"50%_a\b") == r"50\%\_a\textbackslash{}b"


def test_published_figures_stand_apart_and_only_where_they_fit() -> None:
    assert published_rows(["style"]) == []
    rows = dict(published_rows(["style", "pickscore"]))
    assert rows["MaPO"] == ["\N{EN DASH}", "22.9"]


def test_names_are_whole_in_eighty_columns(comparison) -> None:
    console = Console(width=80, record=True)
    for table in rich_tables(comparison):
        console.print(table)
    shown = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown and shown.count("Diffusion-DPO") == 3
    words = shown.split()
    for field in COSTS:  # whole, though perhaps in two lines
        assert all(word in words for word in COST_HEADERS[field].split())
    assert "Prompts needed (there were 12)" in shown
    row = next(line for line in shown[shown.index("Prompts needed") :].splitlines() if line.split()[:1] == ["SFT"])
    needed = [score.against["sft"]["base"].prompts_needed for score in comparison.scores]
    assert row.split()[1:] == ["\N{EN DASH}" if count is None else f"{count:,}" for count in needed]


def test_every_pair_is_in_a_file_of_its_own_with_holm_over_all(comparison, three_methods) -> None:
    rows = list(csv.DictReader(io.StringIO(pairs_csv(comparison))))
    assert len(rows) == 6 * 3  # four models, three scorers
    assert len({(frozenset((row["method"], row["other"])), row["scorer"]) for row in rows}) == len(rows)
    assert all(row["method"] != "base" for row in rows)
    one = next(row for row in rows if (row["method"], row["other"], row["scorer"]) == ("sft", "mapo beta=8", "style"))
    found = comparison.scores[0].against["sft"]["mapo beta=8"]
    assert float(one["mean_difference"]) == pytest.approx(found.mean.value, rel=1e-5)
    assert float(one["effect_size"]) == pytest.approx(found.effect_size, rel=1e-5)
    assert float(one["wins"]) + float(one["ties"]) + float(one["losses"]) == pytest.approx(1)
    for plain, adjusted in (("p_value", "p_adjusted"), ("p_value_wins", "p_adjusted_wins")):
        expected = holm([float(row[plain]) if row[plain] else None for row in rows])
        told = [float(row[adjusted]) if row[adjusted] else None for row in rows]
        assert [one is None for one in told] == [one is None for one in expected]
        assert [one for one in told if one is not None] == pytest.approx(
            [p for p in expected if p is not None], rel=1e-4
        )
    assert all(row["unknown_because"] == ("" if row["p_value"] else "no spread") for row in rows)


def test_the_matrix_is_bold_by_holm_and_not_by_each_interval(workshop) -> None:
    """Twelve methods that are the same, but for noise: of 198 win rates some intervals leave out one half."""
    workshop.base()
    for number in range(12):
        workshop.run("sft", 0, learning_rate=(number + 1) * 1e-5, noise=number)
    compared = compare_methods(*collect(PATTERN), 0.95)
    cells = [(score, label, other) for score in compared.scores for label, other in score.pairs if other != "base"]
    outside = [cell for cell in cells if cell[0].win_rate[cell[1]][cell[2]].excludes(0.5)]
    assert len(outside) >= 1
    assert not any(score.win_is_clear(label, other) for score, label, other in cells)


def measured(root: Path, distance: float) -> None:
    about = {"features": "dinov2", "data_fingerprint": "a1b2c3d4", "chosen": {"distance": distance}}
    write_json(root / "base-12345678" / "mismatch" / "a1b2c3d4-dinov2.json", about)


def test_mismatch_of_several_comparisons_is_one_plot(three_methods) -> None:
    measured(three_methods.root, 0.2)
    compare(compose("compare", [f"runs={PATTERN}", "output_dir=near"]))
    near = read_json(Path("near/summary.json"))["mismatch"]
    assert near["distance"] == 0.2 and set(near["gains"]) == {"SFT", "MaPO", "Diffusion-DPO"}
    measured(three_methods.root, 0.6)
    page = compare(compose("compare", [f"runs={PATTERN}", "output_dir=far", "beside=[near]"]))
    text = page.read_text()
    assert 'id="mismatch"' in text
    # The plot's numbers as a table, for those who cannot see it.
    table = text[text.index('aria-label="Gains by reference mismatch"') :].split("</table>")[0]
    assert table.count('<th scope="row">') == 3 and table.index("distance 0.200") < table.index("distance 0.600")
    low, high = (f"{value:.2f}" for value in near["gains"]["MaPO"][1:])
    assert f"[{low}, {high}]" in table
    shutil.rmtree(three_methods.root / "base-12345678" / "mismatch")
    assert 'id="mismatch"' not in compare(compose("compare", [f"runs={PATTERN}", "output_dir=none"])).read_text()
    with pytest.raises(UserError, match="no comparison with a measured mismatch"):
        compare(compose("compare", [f"runs={PATTERN}", "output_dir=far", "beside=[none]"]))


def test_methods_are_told_apart_without_colour_and_labels_without_overlap() -> None:
    looks = {(method_marker(index), method_line(index)) for index in range(1, 36)}
    assert len(looks) == 35
    assert len({(css_colour(index), method_marker(index)) for index in range(1, 57)}) == 56
    places = np.array([[100, 50], [100, 51], [100, 52], [103, 50], [300, 50]], dtype=float)
    heights = apart(places)
    assert min(np.diff(np.sort(heights[:4]))) >= LABEL_GAP - 0.01
    assert heights[:4].mean() == pytest.approx(places[:4, 1].mean()) and heights[4] == 50
    marks = [key_mark(index, "cost") for index in range(1, 14)]
    assert len({re.sub(r"var\(--[\w-]+\)|key-cost-\d+|m\w{10}", "", mark) for mark in marks}) == 13
    assert all('aria-hidden="true"' in mark for mark in marks)


def test_scores_are_told_by_category_where_prompts_have_one(three_methods) -> None:
    """Means of each category's pictures alone, in the tables and on the page; without categories there is no table."""
    assert category_table(compare_methods(*collect(PATTERN), 0.95)) is None
    expected: dict[tuple[str, str], list[float]] = {}
    for file in sorted(Path("outputs").rglob("scores.csv")):
        rows = read_rows(file)
        for row in rows:
            row["category"] = "unsafe" if int(row["index"]) % 3 == 0 else "benign"
            method = file.parents[2].name.split("-seed")[0].split("-")[0]
            expected.setdefault((row["category"], method), []).append(float(row["style"]))
        with open(file, "w", newline="", encoding="utf-8") as lines:
            csv.writer(lines).writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    base, methods = collect(PATTERN)
    header, rows = category_table(compare_methods(base, methods, 0.95))
    assert header[:3] == ["category", "method", "style"] and len(rows) == 2 * 4
    for category, method, style, *_ in rows:
        short = {"Base model": "base", "SFT": "sft", "MaPO": "mapo", "Diffusion-DPO": "diffusion_dpo"}[method]
        assert float(style.split()[0]) == pytest.approx(np.mean(expected[category, short]), abs=6e-4)
    page = compare(compose("compare", [f"runs='{PATTERN}'"]))
    assert "By category of prompt" in page.read_text(encoding="utf-8")
    assert "### By category of prompt" in (page.parents[1] / "summary.md").read_text(encoding="utf-8")
