"""The sentences say what the numbers say, and no more."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from mapolab.errors import UserError
from mapolab.evaluation.intervals import Estimate
from mapolab.reading import read_rows
from mapolab.report.collect import collect
from mapolab.report.csvs import pairs_csv
from mapolab.report.summary import Comparison, compare_methods
from mapolab.report.tables import arrow
from mapolab.report.words import caveat, decimals, findings, leader, number, opening, percent

PATTERN = "outputs/emoji_style/*"


def comparison(runs: str = PATTERN) -> Comparison:
    return compare_methods(*collect(runs), confidence=0.95)


def test_what_each_method_did(three_methods) -> None:
    told = dict(findings(comparison()))
    assert told["MaPO"].startswith("raised style to 0.7")
    assert "concept did not change in any picture" in told["MaPO"]
    assert "pixel distance fell by" in told["MaPO"] and "(better)" in told["MaPO"]
    assert "concept fell by 0." in told["Diffusion-DPO"]
    assert "pixel distance rose by" in told["Diffusion-DPO"] and "(worse)" in told["Diffusion-DPO"]
    assert opening(comparison()).startswith("The base model scores 0.1")


def shifted(workshop, shifts: list[float]) -> str:
    """What is told of a run whose style is the base's, with these shifts in turn."""
    workshop.base()
    folder = workshop.run("sft")
    base, table = (next(run.glob("evaluation/*/scores.csv")) for run in (workshop.root / "base-12345678", folder))
    rows = [
        {**row, "style": str(float(row["style"]) + shifts[index % len(shifts)])}
        for index, row in enumerate(read_rows(base))
    ]
    table.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    ((_, told),) = findings(comparison())
    return told


def test_a_change_too_small_for_the_table_is_told_as_small(workshop) -> None:
    assert shifted(workshop, [0.0025, 0.0035]).startswith("raised style only by 0.003, to 0.1")


def test_a_change_without_spread_is_no_finding(workshop) -> None:
    told = shifted(workshop, [0.3])
    assert (
        told.startswith("has 0.40 [") and "for style, and no change can be told (no spread); concept and pixel" in told
    )
    assert told.endswith("concept and pixel distance did not change in any picture.")


@pytest.mark.parametrize("prompts", [1, 2, 5])
def test_too_few_prompts_are_said_and_nothing_claimed(workshop, prompts: int) -> None:
    workshop = type(workshop)(workshop.root, prompts)
    workshop.base()
    workshop.run("mapo")
    compared = comparison()
    assert caveat(compared).startswith(f"{prompts} prompt")
    assert "too few for intervals and p-values: it takes 6" in caveat(compared)
    for score in compared.scores:
        assert score.verdict("mapo beta=8") == "unknown" and score.p_adjusted["mapo beta=8"] is None
        assert not score.mean["base"].known and not score.win_is_clear("mapo beta=8", "base")
    ((_, told),) = findings(compared)
    assert "no change can be told (too few clusters)" in told and "measurably" not in told


def test_clusters_are_counted_and_runs_that_disagree_on_them_refused(three_methods) -> None:
    files = sorted(Path("outputs").rglob("scores.csv"))
    for file in files:
        rows = read_rows(file)
        lines = [",".join([*row.values(), f"group {int(row['index']) // 2}"]) for row in rows]
        file.write_text("\n".join([",".join([*rows[0], "cluster"]), *lines]) + "\n")
    compared = comparison()
    assert (compared.over, compared.clusters) == ("12 prompts in 6 clusters", 6)
    assert "over 12 prompts in 6 clusters" in caveat(compared)
    assert compared.scores[0].against["sft"]["base"].clusters == 6
    files[0].write_text(files[0].read_text().replace("group 5", "group 0"))
    with pytest.raises(UserError, match="another cluster"):
        comparison()


def test_who_is_ahead(three_methods) -> None:
    """Measurably means after Holm's correction over all pairs and scorers, not of the leader's alone."""
    assert leader(comparison()).endswith("MaPO is ahead of the other methods, but not measurably of Diffusion-DPO.")
    score = comparison().scores[0]
    pair = score.against["mapo beta=8"]["diffusion_dpo beta=8"]
    assert pair.p_value < 0.05 and not score.differs("mapo beta=8", "diffusion_dpo beta=8")
    # What could be found is told at the same strictness: three methods, or six pairs, by three scorers.
    assert score.against["mapo beta=8"]["base"].level == pytest.approx(0.05 / 9) and pair.level == pytest.approx(
        0.05 / 18
    )
    assert score.differs("mapo beta=8", "base") and score.verdict("mapo beta=8") == "better"
    assert leader(comparison("outputs/emoji_style/mapo-*")) is None


def test_equal_methods_are_said_to_overlap(workshop) -> None:
    workshop.base()
    for learning_rate in (1e-4, 3e-4):
        workshop.run("mapo", 0, learning_rate=learning_rate)
    sentence = leader(comparison())
    assert "but not measurably of MaPO lr=0.000" in sentence


def test_the_intervals_say_what_they_leave_out(three_methods) -> None:
    assert "with one training seed a method, they do not tell" in caveat(comparison())
    for name in ("sft", "mapo", "diffusion_dpo"):
        three_methods.run(name, seed=1)
    assert caveat(comparison()).endswith("over 12 prompts and 2 training seeds a method.")


def test_numbers() -> None:
    assert number(-0.004, 2) == "0.00"
    assert number(-0.05, 2) == "\N{MINUS SIGN}0.05"
    assert [percent(value) for value in (0, 0.001, 0.5, 0.999, 1)] == ["0%", "<1%", "50%", ">99%", "100%"]


@pytest.mark.parametrize(("width", "digits"), [(0.0, 2), (0.5, 2), (0.06, 2), (0.01, 3), (12.0, 2)])
def test_digits_show_the_interval(width: float, digits: int) -> None:
    assert decimals([Estimate(1.0, 1.0, 1.0 + width)]) == digits


def test_of_a_distance_less_is_better(three_methods) -> None:
    """MaPO's pictures are the nearest, Diffusion-DPO's the farthest."""
    compared = comparison()
    (distance,) = (score for score in compared.scores if score.name == "pixel_distance")
    assert leader(replace(compared, scores=[distance])).startswith("By pixel distance, MaPO is ahead")
    rows = list(csv.DictReader(pairs_csv(compared).splitlines()))
    assert {(row["scorer"], row["better"]) for row in rows} == {
        ("style", "higher"), ("concept", "higher"), ("pixel_distance", "lower")
    }  # fmt: skip
    assert [arrow(score) for score in compared.scores] == ["\N{UPWARDS ARROW}"] * 2 + ["\N{DOWNWARDS ARROW}"]
