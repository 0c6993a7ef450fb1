"""What a reader sees on the page, read from its HTML: which cells are bold, intervals, win rates, and notes on axes."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from jinja2 import Environment, nodes

import mapolab
from mapolab.reading import read_rows
from mapolab.report.collect import collect
from mapolab.report.compare import compare
from mapolab.report.curves import curve_plots
from mapolab.report.page import StrictEnvironment
from mapolab.report.summary import Comparison, compare_methods

PATTERN = "outputs/emoji_style/*"


class Tables(HTMLParser):
    """Every table's rows of (classes, text with spaces between elements), by the table's label or its class."""

    def __init__(self, text: str):
        super().__init__()
        self.found: dict[str, list[list[tuple[set[str], str]]]] = {}
        self.label, self.rows, self.cell = "", None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "div" and given.get("role") == "region":
            self.label = given["aria-label"]
        elif tag == "table":
            self.rows = self.found.setdefault(self.label, [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell = ({*(given.get("class") or "").split()}, [])
        elif tag == "b" and self.cell:
            self.cell[0].update((given.get("class") or "").split())

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append((self.cell[0], " ".join(" ".join(self.cell[1]).split())))
            self.cell = None

    def handle_data(self, text):
        if self.cell:
            self.cell[1].append(text)


def rendered() -> tuple[Comparison, str, dict[str, list[list[tuple[set[str], str]]]]]:
    page = compare({"runs": PATTERN, "base": None, "output_dir": None, "confidence": 0.95})
    text = page.read_text(encoding="utf-8")
    return compare_methods(*collect(PATTERN), 0.95), text, Tables(text).found


def test_a_win_rate_is_bold_where_it_stands_out_and_nowhere_else(workshop) -> None:
    workshop.prompts = [f"shape {index}" for index in range(48)]
    workshop.settings["prompt_count"] = 48
    workshop.base()
    for name in ("sft", "mapo", "diffusion_dpo"):
        workshop.run(name)
    comparison, _, tables = rendered()
    labels = [method.label for method in comparison.everyone]
    bold = 0
    for score in comparison.scores:
        rows = tables[f"Win rates by {score.name.replace('_', ' ')}"][1:]
        for label, row in zip(labels, rows, strict=True):
            for other, (classes, shown) in zip(labels, row[1:], strict=True):
                if label == other:
                    assert (classes, shown) == ({"self"}, "")
                    continue
                assert ("clear" in classes) == score.win_is_clear(label, other), (score.name, label, other)
                rate = score.win_rate[label][other]
                assert shown.split()[0] in (f"{100 * rate.value:.0f}%", "<1%", ">99%")
                assert shown.split()[1] == f"{100 * rate.low:.0f}\N{EN DASH}{100 * rate.high:.0f}"
                bold += "clear" in classes
    assert 0 < bold < len(comparison.scores) * 12


def test_what_is_shown_lies_within_the_scorers_range(workshop) -> None:
    """A share of 0.9 and a probability of 0.95 at few prompts, where an interval by the normal law would leave 0..1."""
    workshop.prompts = workshop.prompts[:8]
    workshop.settings["prompt_count"] = 8
    workshop.base()
    for name in ("sft", "mapo"):
        for seed in (0, 1, 2):
            workshop.run(name, seed)
    for file in Path("outputs").rglob("scores.csv"):
        file.write_text(
            re.sub(r"(png),([\d.]+),", lambda cell: f"{cell[1]},{0.9 + 0.1 * float(cell[2]):.6g},", file.read_text())
        )
    comparison, text, tables = rendered()
    number = r"[\N{MINUS SIGN}-]?\d+\.\d+"
    seen = 0
    for row in tables["Scores of each method"][1:]:
        for score, (_, shown) in zip(comparison.scores, row[1:], strict=True):
            for low, high in re.findall(rf"\[({number}), ({number})\]", shown):
                value = re.match(number, shown)[0]
                ends = [float(end.replace("\N{MINUS SIGN}", "-")) for end in (low, value, high)]
                assert ends == sorted(ends)
                most = score.about["maximum"]
                assert ends[0] >= score.about["minimum"] and (most is None or ends[2] <= most)
                seen += 1
    assert seen > 3
    for name in ("summary.md", "summary.tex"):
        assert "ties as half" in (Path("outputs/emoji_style/comparison") / name).read_text()
    assert "bootstrap" not in text


def test_stars_and_win_rates_of_the_table_of_scores(three_methods) -> None:
    comparison, text, tables = rendered()
    for method, row in zip(comparison.everyone, tables["Scores of each method"][1:], strict=True):
        for score, (classes, shown) in zip(comparison.scores, row[1:], strict=True):
            verdict = score.verdict(method.label)
            assert verdict in classes
            assert ("\N{BLACK UP-POINTING TRIANGLE}" in shown) == (verdict == "better")
            assert ("\N{BLACK DOWN-POINTING TRIANGLE}" in shown) == (verdict == "worse")
            assert ("win rate" in shown) == (method is not comparison.base)
    # One definition: half the ties count, and shares of wins alone are called wins.
    differences = tables["Differences from the base"]
    header = [shown for _, shown in differences[0]]
    assert header[4:7] == ["wins", "ties", "losses"]
    found = comparison.scores[1].against["mapo beta=8"]["base"]
    assert found.win_rate.value == pytest.approx(found.wins + found.ties / 2)
    assert found.ties > 0
    assert text.count("ties as half") == 2 and "the win rate is the wins and half the ties" in text


def test_what_cannot_be_told_is_said_in_its_cell(workshop) -> None:
    """Three prompts, and a scorer that gives every picture the same."""
    workshop.prompts = workshop.prompts[:3]
    workshop.settings["prompt_count"] = 3
    workshop.base()
    workshop.run("mapo")
    _, text, tables = rendered()
    cells = [[shown for _, shown in row] for row in tables["Differences from the base"][1:]]
    assert {(row[7], row[8]) for row in cells} <= {("too few clusters",) * 2, ("no spread",) * 2}
    assert all("[\N{EN DASH}]" in row[2] for row in cells)
    assert "\N{INFINITY}" not in text and "0.000" not in " ".join(" ".join(row) for row in cells)
    assert not re.search(r'class="[^"]*\bclear\b[^"]*"', text.split("<body>")[1])


def test_clusters_are_counted_on_the_page(workshop) -> None:
    workshop.base()
    workshop.run("mapo")
    for file in Path("outputs").rglob("scores.csv"):
        header, *rows = file.read_text().splitlines()
        lines = [f"{header},cluster", *(f"{row},shape {number // 2}" for number, row in enumerate(rows))]
        file.write_text("\n".join(lines) + "\n")
    _, text, _ = rendered()
    assert "over 12 prompts in 6 clusters" in text


def test_a_template_has_no_name_of_a_method_of_dict_list_or_text() -> None:
    """`cell.clear` was the method of a dict, and always true."""
    with pytest.raises(TypeError, match=r"\.clear of a dict"):
        StrictEnvironment().from_string("{{ cell.clear }}").render(cell={"clear": False})
    assert StrictEnvironment().from_string("{{ cell['clear'] }}").render(cell={"clear": False}) == "False"
    templates = list(Path(mapolab.__file__).parent.rglob("*.j2"))
    assert len(templates) >= 3
    taken = {name for kind in (dict, list, tuple, str) for name in dir(kind)}
    for file in templates:
        parsed = Environment().parse(file.read_text(encoding="utf-8"))
        asked = {node.attr for node in parsed.find_all(nodes.Getattr)}
        assert not asked & (taken - {"index"}), file  # row.index is a number


METRICS = "step,loss,error_chosen,error_rejected,margin,implicit_accuracy,gradient_norm"


def with_gradients(folder: Path, norms: list[str]) -> None:
    rows = [f"{step},0.5,0.1,0.1,0.0,0.5,{norm}" for step, norm in enumerate(norms)]
    (folder / "metrics.csv").write_text("\n".join([METRICS, *rows]) + "\n")


def gradient_plot() -> tuple[str, list[float]]:
    """What stands beside the heading, and the figures right of the plot's first axis: the second one's, and the numbers
    of the methods at the ends of their lines."""
    (plot,) = [one for one in curve_plots(compare_methods(*collect(PATTERN), 0.95)) if one.heading == "gradient norm"]
    figures = re.findall(r">([\d.,e\N{MINUS SIGN}]+)</text>", plot.svg.split(">step</text>")[1])
    return plot.about, [float(one.replace(",", "").replace("\N{MINUS SIGN}", "-")) for one in figures]


@pytest.mark.parametrize("steps", [12, 60, 2000])
def test_one_gradient_norm_of_1100_does_not_flatten_the_rest(workshop, steps: int) -> None:
    workshop.base()
    generator = np.random.default_rng(0)
    for name in ("sft", "mapo"):
        norms = [f"{1 + 0.2 * value:.4f}" for value in generator.random(steps)]
        norms[steps // 2] = "1100" if name == "mapo" else norms[steps // 2]
        with_gradients(workshop.run(name), norms)
    caption, figures = gradient_plot()
    assert f"1 of {2 * steps:,} values lies beyond the axis at 1,100" in caption
    *ticks, first, second = figures  # at the ends of the lines stand the methods' numbers
    assert max(ticks) < 2 and (first, second) == (1, 2)


def test_gradient_norms_over_orders_of_magnitude_and_some_that_are_not_finite(workshop) -> None:
    workshop.base()
    with_gradients(workshop.run("sft"), [f"{1000 * 0.8**step:.6g}" for step in range(40)])
    with_gradients(workshop.run("mapo"), ["inf", "nan", *["1.0"] * 38])
    caption, figures = gradient_plot()
    assert "logarithmic axis" in caption and "2 of 80 values are not finite" in caption
    assert {1.0, 10.0, 100.0} <= {*figures}


@pytest.mark.parametrize("norms", [["1.5"], ["0", "0"], ["-3", "-2.5", "-2"], ["nan", "1"], ["", ""], ["inf"]])
def test_curves_of_any_kind_are_drawn(workshop, norms: list[str]) -> None:
    """One step, zeros, negative values, nothing that is finite."""
    workshop.base()
    with_gradients(workshop.run("sft"), norms)
    headings = [plot.heading for plot in curve_plots(compare_methods(*collect(PATTERN), 0.95))]
    assert ("gradient norm" in headings) == any(norm not in ("", "inf", "nan") for norm in norms)


def test_an_outlier_among_the_scores_is_told_beside_the_distributions(workshop) -> None:
    workshop.base()
    folder = workshop.run("sft")
    file = next(folder.glob("evaluation/*/scores.csv"))
    last = read_rows(file)[-1]["pixel_distance"]
    file.write_text(file.read_text().rstrip().removesuffix(last) + "9000\n")
    _, text, _ = rendered()
    section = text[text.index('id="spread"') :].split("</section>")[0]
    assert "<span>1 of 24 values lies beyond the axis at 9,000</span>" in section


def test_each_score_says_which_way_is_better(three_methods) -> None:
    rendered()
    page = Path("outputs/emoji_style/comparison/report/index.html").read_text(encoding="utf-8")
    up, down = '<span title="higher is better">\N{UPWARDS ARROW}', '<span title="lower is better">\N{DOWNWARDS ARROW}'
    heads = re.findall(r'<th scope="col">([a-z ]+) (<span title="[a-z ]+">.)</span>', page)
    assert heads[:3] == [("style", up), ("concept", up), ("pixel distance", down)]


def test_a_curve_is_a_running_mean_of_what_lies_on_the_axis(workshop) -> None:
    workshop.base()
    metrics = workshop.run("mapo") / "metrics.csv"
    rows = [line.split(",") for line in metrics.read_text().splitlines()]

    def mean_line(spike: str) -> list[str]:
        rows[20][-1] = spike
        metrics.write_text("\n".join(map(",".join, rows)) + "\n")
        comparison, text, _ = rendered()
        assert "as a running mean of about 5 steps" in text  # of 40
        plot = next(plot for plot in curve_plots(comparison) if plot.heading == "gradient norm")
        assert ("1 of 40 values lies beyond the axis" in plot.about) == bool(spike)
        return re.findall(r'<path d="([^"]*)"[^>]*stroke-width: 1\.6', plot.svg)

    line = mean_line("1100.0")
    assert len(line) == 1 and line == mean_line("")
    comparison, _, _ = rendered()
    heights = [float(pair.split()[1]) for pair in re.findall(r"[ML] ([-\d. ]+)", line[0])]
    values = comparison.methods[0].runs[0].metrics["gradient_norm"]
    known = values[np.isfinite(values)]
    means = [known[max(0, index - 2) : index + 3].mean() for index in range(len(known))]
    assert abs(np.corrcoef(heights, means)[0, 1]) > 0.9999
