"""The sentences say what the numbers say, and no more."""

import pytest

from mapolab.evaluation.intervals import Estimate
from mapolab.report.collect import collect
from mapolab.report.runs import read_rows
from mapolab.report.summary import Comparison, compare_methods
from mapolab.report.words import caveat, decimals, findings, leader, number, opening, percent

PATTERN = "outputs/emoji_style/*"


def comparison(runs: str = PATTERN) -> Comparison:
    return compare_methods(*collect(runs), confidence=0.95)


def test_what_each_method_did(three_methods) -> None:
    told = dict(findings(comparison()))
    assert told["MaPO"].startswith("raised style to 0.7")
    assert "concept did not change measurably" in told["MaPO"]
    assert "pixel distance fell by" in told["MaPO"] and "(better)" in told["MaPO"]
    assert "concept fell by 0." in told["Diffusion-DPO"]
    assert "pixel distance rose by" in told["Diffusion-DPO"] and "(worse)" in told["Diffusion-DPO"]
    assert opening(comparison()).startswith("The base model scores 0.1")


def test_a_change_too_small_for_the_table_is_told_as_small(workshop) -> None:
    workshop.base()
    folder = workshop.run("sft")
    base, table = (next(run.glob("evaluation/*/scores.csv")) for run in (workshop.root / "base-12345678", folder))
    rows = [{**row, "style": str(float(row["style"]) + 0.003)} for row in read_rows(base)]
    table.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    ((_, told),) = findings(comparison())
    assert told.startswith("raised style only by 0.003, to 0.1")


def test_who_is_ahead(three_methods) -> None:
    assert leader(comparison()).endswith("MaPO is ahead of the other methods, measurably of each.")
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
