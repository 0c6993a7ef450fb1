"""`mapolab compare` from run folders to its files."""

import re
import shutil
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mapolab.errors import UserError
from mapolab.files import read_json, write_json
from mapolab.reading import read_rows
from mapolab.report.compare import compare
from mapolab.report.published import published_note
from mapolab.report.wall import embed, evenly

PATTERN = "outputs/emoji_style/*"
COMPARISON = Path("outputs/emoji_style/comparison")
SCORERS = ("style", "concept", "pixel_distance")


def run_compare(**changes) -> Path:
    config = {"runs": PATTERN, "output_dir": None, "confidence": 0.95}
    return compare(config | changes)


class Page(HTMLParser):
    """Counts elements, checks that they close, and keeps every address that a browser would open."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "path", "use", "rect"})

    def __init__(self, text: str):
        super().__init__()
        self.count: dict[str, int] = {}
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(three_methods, capsys: pytest.CaptureFixture) -> None:
    page = run_compare()
    assert page == COMPARISON / "report" / "index.html"
    text = page.read_text()
    parsed = Page(text)
    assert not parsed.open
    assert all(address.startswith(("data:", "#")) for address in parsed.addresses)
    assert not re.search(r"url\((?!#)|@import|<script[^>]*src", text)
    assert parsed.count["img"] == 12 * 4 + 3  # and those of the two dialogs
    assert parsed.count["svg"] == 3 + 2 + 6 + 2 + 2 * 3  # scores, distributions, curves, costs, and two keys
    assert str(page) in capsys.readouterr().out
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)), "references in one plot would reach into another"
    assert {address[1:] for address in parsed.addresses if address[0] == "#"} <= set(ids)


def test_the_same_runs_give_the_same_files(three_methods) -> None:
    first = run_compare().read_bytes()
    assert run_compare(output_dir="elsewhere").read_bytes() == first
    assert Path("elsewhere/summary.csv").read_bytes() == (COMPARISON / "summary.csv").read_bytes()


def comparison_of(method: str, other: str) -> float:
    rows = read_rows(COMPARISON / "pairs.csv")
    found = next(r for r in rows if (r["method"], r["other"], r["scorer"]) == (method, other, "style"))
    return float(found["win_rate"])


def test_the_csv_holds_every_estimate(three_methods) -> None:
    run_compare()
    rows = {row["method"]: row for row in read_rows(COMPARISON / "summary.csv")}
    assert list(rows) == ["base", "diffusion_dpo beta=8", "mapo beta=8", "sft"]
    scores = read_rows(next(three_methods.root.glob("mapo-*/evaluation/*/scores.csv")))
    mapo = rows["mapo beta=8"]
    assert float(mapo["style/mean"]) == pytest.approx(np.mean([float(row["style"]) for row in scores]), rel=1e-5)
    assert float(mapo["style/mean_low"]) < float(mapo["style/mean"]) < float(mapo["style/mean_high"])
    assert mapo["style/verdict_against_base"] == "better"
    assert rows["diffusion_dpo beta=8"]["pixel_distance/verdict_against_base"] == "worse"
    assert float(mapo["style/median"]) == pytest.approx(np.median([float(row["style"]) for row in scores]), rel=1e-5)
    # Holm over the nine differences from the base, by hand; one of which nothing can be told counts, and stays empty.
    found = [(row, f"{scorer}/p_{{}}_against_base") for row in list(rows.values())[1:] for scorer in SCORERS]
    found = sorted((float(row[key.format("value")] or 1), row[key.format("adjusted")]) for row, key in found)
    adjusted = 0.0
    for place, (p_value, shown) in enumerate(found):
        adjusted = max(adjusted, min(1.0, (9 - place) * p_value))
        assert shown == "" or float(shown) == pytest.approx(adjusted, rel=1e-4)
    shares = [float(mapo[f"concept/{name}_against_base"]) for name in ("wins", "ties", "losses")]
    assert sum(shares) == pytest.approx(1)
    # Of two methods, pairs.csv tells all: the width of this file does not grow with the methods.
    assert float(mapo["style/win_rate_against_base"]) == pytest.approx(comparison_of("mapo beta=8", "base"), rel=1e-5)
    assert not any("sft" in column or "mapo" in column for column in mapo)
    assert (mapo["samples_per_second"], rows["base"]["samples_per_second"]) == ("41.5", "")


def test_a_scorer_that_only_some_were_judged_by_is_left_out(three_methods) -> None:
    table = next(three_methods.root.glob("mapo-*/evaluation/*/scores.csv"))
    rows = read_rows(table)
    kept = [key for key in rows[0] if key != "concept"]
    table.write_text("".join(",".join(line) + "\n" for line in [kept, *([row[key] for key in kept] for row in rows)]))
    settings = read_json(table.with_name("settings.json"))
    settings["scorers"] = [about for about in settings["scorers"] if about["name"] != "concept"]
    write_json(table.with_name("settings.json"), settings)
    run_compare()
    assert {row["scorer"] for row in read_rows(COMPARISON / "pairs.csv")} == {"style", "pixel_distance"}


def test_seeds_stand_in_order_whatever_order_they_are_named_in(workshop) -> None:
    workshop.base()
    folders = [str(workshop.run("mapo", seed)) for seed in (2, 0, 1)]
    run_compare(runs=folders)
    rows = read_rows(Path("outputs/emoji_style/comparison/summary.csv"))
    assert [row["seeds"] for row in rows] == ["", "0 1 2"]
    again = shutil.copytree(folders[0], "outputs/emoji_style/another")
    with pytest.raises(UserError, match="same method with the same seed"):
        run_compare(runs=[*folders, str(again)])


def test_every_score_is_in_one_long_table(workshop) -> None:
    """A row a run, picture and scorer; the example of docs/evaluation.md, and the settings in which methods differ."""
    workshop.prompts[0] = 'a "shape", on\r two lines'
    workshop.base()
    for seed in (0, 1):
        for beta in (16, 8):
            workshop.run("mapo", seed, config={"objective.beta": beta}, noise=beta)
    workshop.run("sft")
    run_compare()
    rows = read_rows(COMPARISON / "scores_long.csv")
    assert len(rows) == (1 + 2 * 2 + 1) * 12 * 3
    assert list(rows[0]) == [
        "method", "name", "objective", "seed", "run", "prompt_index", "prompt", "category", "cluster", "image_seed",
        "image", "scorer", "value", "objective.beta",
    ]  # fmt: skip
    assert {row["prompt"] for row in rows if row["prompt_index"] == "0"} == {'a "shape", on\r two lines'}
    assert all(Path(row["image"]).is_file() and Path(row["run"]).is_dir() for row in rows)
    betas = {row["method"]: row["objective.beta"] for row in rows}
    assert betas == {"base": "", "mapo beta=8": "8", "mapo beta=16": "16", "sft": ""}
    example = Path(__file__).parents[2] / "docs" / "evaluation.md"
    assert 'pd.read_csv("scores_long.csv").pivot_table(index="method", columns="scorer", values="value")' in (
        example.read_text(encoding="utf-8")
    )
    for row in read_rows(COMPARISON / "summary.csv"):  # what that line computes, without pandas
        for scorer in ("style", "concept", "pixel_distance"):
            values = [float(r["value"]) for r in rows if (r["method"], r["scorer"]) == (row["method"], scorer)]
            assert np.mean(values) == pytest.approx(float(row[f"{scorer}/mean"]), rel=1e-5)


def test_markdown_tables_are_square(three_methods) -> None:
    run_compare()
    text = (COMPARISON / "summary.md").read_text()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 1 + 1 + 3 + 1
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)


def test_seeds_stand_side_by_side_and_prompts_are_escaped(workshop) -> None:
    workshop.prompts[0] = 'a <b>"shape"</b> & more'
    workshop.base()
    for seed in (0, 1, 2):
        workshop.run("mapo", seed)
    text = run_compare().read_text()
    assert "a &lt;b&gt;&#34;shape&#34;&lt;/b&gt; &amp; more" in text
    assert "grid-column: span 3" in text and "seeds 0, 1, 2" in text


def test_without_scorers_there_are_pictures_and_costs(workshop) -> None:
    workshop.settings["scorers"] = []
    workshop.base()
    workshop.run("sft")
    page = run_compare()
    assert Page(page.read_text()).count["img"] == 24 + 3
    assert "evaluated without a scorer" in (COMPARISON / "summary.md").read_text()


@cache
def noisy(index: int) -> Image.Image:
    """What compresses badly, larger than a thumbnail."""
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (400, 400, 3), dtype=np.uint8))


def test_a_page_of_many_methods_and_large_pictures_stays_below_15_mb(workshop) -> None:
    workshop.prompts = [f"a shape, number {index}" for index in range(20)]
    workshop.draw = lambda name, index: noisy(index)
    workshop.base()
    for number in range(13):
        workshop.run("sft", 0, learning_rate=(number + 1) * 1e-5, noise=number)
    page = run_compare()
    assert 13_000_000 < page.stat().st_size < 15_000_000
    text = page.read_text()
    shown = (Page(text).count["img"] - 3) // 14
    assert 1 <= shown < 20 and f"The other {20 - shown} prompts' pictures" in text


def test_of_many_runs_the_wall_shows_one_seed_each(workshop) -> None:
    workshop.base()
    for seed in range(4):
        for name in ("sft", "mapo", "diffusion_dpo"):
            workshop.run(name, seed)
    assert "grid-column: span 4" in run_compare().read_text()  # 13 columns
    for seed in (4, 5):
        for name in ("sft", "mapo", "diffusion_dpo"):
            workshop.run(name, seed)
    text = run_compare().read_text()
    assert Page(text).count["img"] == 12 * 4 + 3 and "one training seed is shown" in text
    assert "grid-column: span 6" not in text and "SFT, seed 0" in text and "SFT, seed 5" not in text


def test_published_figures_are_marked_and_say_when_the_prompts_are_others(workshop) -> None:
    workshop.settings["scorers"][0] |= {"name": "pickscore"}
    workshop.base()
    workshop.run("sft")
    page = run_compare().read_text()
    summary = (COMPARISON / "summary.md").read_text()
    for text in (page, summary):
        assert "not measured here" in text and "MaPO, 2406.06424v2, Table 2" in text
        assert "Your prompts are others (builtin:emoji/prompts/test.csv)" in text
    assert "| InPO (published) |  | 22.5 |" in summary
    assert re.search(r'<th scope="row">InPO</th>\s*<td>22.5</td>', page)
    assert page.index("Published figures") > page.index('class="scores"'), "never in the table of what was measured"


@pytest.mark.parametrize(
    ("settings", "others"),
    [
        ({"prompts": "pickapic_test_unique"}, False),
        ({"prompts": "yuvalkirstain/pickapic_v2", "split": "test_unique"}, False),
        ({"prompts": "pickapic_test_unique", "limit": 10}, True),
        ({"prompts": "partiprompts"}, True),
    ],
)
def test_the_papers_own_prompts_are_known(settings: dict, others: bool) -> None:
    assert ("Your prompts are others" in published_note(settings)) == others


def test_a_missing_picture_is_named(three_methods) -> None:
    next(three_methods.root.glob("sft-*/evaluation/*/images/00004.png")).unlink()
    with pytest.raises(UserError, match=r"00004\.png is missing"):
        run_compare()


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    Image.new("RGB", (1024, 1024), (10, 200, 30)).save(tmp_path / "large.png")
    assert embed(tmp_path / "large.png").startswith("data:image/jpeg")
    assert len(embed(tmp_path / "large.png")) < 20_000


def test_prompts_are_chosen_evenly() -> None:
    assert evenly(96, 24)[0] == 0 and evenly(96, 24)[-1] == 95 and len(evenly(96, 24)) == 24
    assert evenly(5, 24) == [0, 1, 2, 3, 4]
