"""What methods are called: no two alike, settings in one order, and the same ones for all of an objective."""

import csv
import io

import pytest
from rich.console import Console

from mapolab.errors import UserError
from mapolab.files import read_json, write_json
from mapolab.report.collect import collect
from mapolab.report.compare import compare
from mapolab.report.csvs import pairs_csv, summary_csv
from mapolab.report.latex import summary_latex
from mapolab.report.summary import compare_methods
from mapolab.report.tables import rich_tables, summary_markdown

PATTERN = "outputs/emoji_style/*"


def names(runs: str | list[str] = PATTERN, base: str | None = None) -> list[str]:
    """Of the methods, after a check that nothing is called alike anywhere."""
    comparison = compare_methods(*collect(runs, base), 0.95)
    for told in ([one.name for one in comparison.everyone], [one.label for one in comparison.everyone]):
        assert len({text.casefold() for text in told}) == len(told), told
    for text in (summary_csv(comparison), pairs_csv(comparison)):
        rows = [tuple(row.values())[:3] for row in csv.DictReader(io.StringIO(text))]
        assert len(set(rows)) == len(rows)
    markdown = [line.split(" |")[0] for line in summary_markdown(comparison).split("\n\n")[1].splitlines()[2:]]
    latex = [line.split(" & ")[0] for line in summary_latex(comparison).splitlines() if " & $" in line]
    assert len(set(markdown)) == len(markdown) == len(set(latex)) == len(comparison.everyone)
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(rich_tables(comparison)[0])
    shown = console.export_text()
    assert all(name in shown for name in comparison.names.values())
    return [method.name for method in comparison.methods]


def test_settings_stand_in_the_order_of_their_numbers_and_on_every_row(workshop) -> None:
    """Betas of which 16 comes before 8 as a text; a learning rate that two of them vary is told of all."""
    workshop.base()
    workshop.run("sft")
    for beta, rate in ((16, 1e-4), (128, 1e-4), (8, 1e-4), (8, 1e-5), (0.5, 1e-4)):
        workshop.run("mapo", learning_rate=rate, config={"objective.beta": beta})
    told = ["beta=0.5 lr=0.0001", "beta=8 lr=1e-05", "beta=8 lr=0.0001", "beta=16 lr=0.0001", "beta=128 lr=0.0001"]
    assert names() == [*(f"MaPO {words}" for words in told), "SFT"]
    assert [method.label for method in collect(PATTERN)[1]] == [*(f"mapo {words}" for words in told), "sft"]


def test_runs_that_differ_only_in_steps_data_or_the_flipped_labels(workshop) -> None:
    workshop.base()
    changes = [{"trainer.max_steps": 1000}, {"data.path": "b/pairs.parquet"}, {"data.path": "c/pairs.parquet"}]
    for config in [{}, *changes, {"data.label_flip_probability": 1.0}, {"data.label_flip_probability": 0.25}]:
        workshop.run("mapo", config=config)
    beginnings = [name.removeprefix("MaPO ") for name in names()]
    assert sorted(beginnings) == sorted(
        f"data={data} max_steps={steps} {labels}"
        for data, labels, steps in [
            ("pairs.parquet", "labels as given", 40),
            ("pairs.parquet", "labels as given", 1000),
            ("b/pairs.parquet", "labels as given", 40),
            ("c/pairs.parquet", "labels as given", 40),
            ("pairs.parquet", "25% of labels flipped", 40),
            ("pairs.parquet", "swapped labels", 40),
        ]
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # A run from before there was the setting, beside one that has it.
        ({"data.crop": "centre"}, {}, ["MaPO crop=unset", "MaPO crop=centre"]),
        ({"model.lora": None}, {"model.lora": {"rank": 8, "alpha": 8}}, ["MaPO lora=unset", "MaPO alpha=8 rank=8"]),
        ({"trainer.fast": True}, {"trainer.fast": False}, ["MaPO fast=false", "MaPO fast=true"]),
        ({"optimizer.betas": [0.9, 0.99]}, {"optimizer.betas": [0.9, 0.999]},
         ["MaPO betas=[0.9,0.99]", "MaPO betas=[0.9,0.999]"]),
        ({"schedule.name": "cosine"}, {"schedule.name": "linear"}, ["MaPO schedule=cosine", "MaPO schedule=linear"]),
        # Two settings of one last part.
        ({"a.rate": 1, "b.rate": 1}, {"a.rate": 2, "b.rate": 3}, ["MaPO a.rate=1 b.rate=1", "MaPO a.rate=2 b.rate=3"]),
        ({"optimizer.lr": 0.00012345678}, {"optimizer.lr": 0.00012345679},
         ["MaPO lr=0.00012345678", "MaPO lr=0.00012345679"]),
        # A list too long for a table.
        ({"data.list": [*range(30)]}, {"data.list": [*range(29), 31]}, None),
        # The experiment's name does not change a weight, but its runs are kept apart.
        ({"name": "one"}, {"name": "two"}, ["MaPO name=one", "MaPO name=two"]),
    ],
)  # fmt: skip
def test_any_setting_tells_two_methods_apart(workshop, first: dict, second: dict, expected: list[str] | None) -> None:
    workshop.base()
    workshop.run("mapo", config=first)
    workshop.run("mapo", config=second, noise=1)
    found = names()
    assert expected is None or found == expected
    assert all(len(name) < 80 for name in found)


def test_what_is_the_same_setting_is_one_method(workshop) -> None:
    """None and a key that is not there; one number in three spellings."""
    workshop.base()
    spellings = [{"optimizer.lr": 1e-5}, {"optimizer.lr": "1e-05"}, {"optimizer.lr": 0.00001, "trainer.ema": None}]
    for seed, config in enumerate(spellings):
        workshop.run("mapo", seed, config=config)
    _, (method,) = collect(PATTERN)
    assert (method.label, method.seeds) == ("mapo beta=8", (0, 1, 2))


def test_data_that_changed_under_its_name_are_not_pooled(workshop) -> None:
    workshop.base()
    workshop.run("mapo", 0)
    workshop.run("mapo", 1, data_fingerprint="ffff0000")
    assert names() == ["MaPO data_fingerprint=a1b2c3d4", "MaPO data_fingerprint=ffff0000"]


def test_a_run_that_does_not_say_its_data_is_pooled_with_those_that_agree(workshop) -> None:
    workshop.base()
    workshop.run("mapo", 0)
    workshop.run("mapo", 1, data_fingerprint=None)
    assert names() == ["MaPO"]


def test_one_seed_as_the_base_of_its_siblings(workshop) -> None:
    workshop.base()
    folders = [workshop.run("mapo", seed) for seed in (0, 1, 2)]
    assert names(base=str(folders[0])) == ["MaPO seed=1,2"]
    base, _ = collect(PATTERN, str(folders[0]))
    assert base.name == "MaPO seed=0"


def test_models_of_one_name(workshop) -> None:
    """Two files of one name, and one called like a method of ours."""
    workshop.base()
    workshop.run("mapo")
    for folder, label in (("model-1111", "model"), ("model-2222", "model"), ("mapo-3333", "mapo")):
        path = workshop.root / folder
        manifest = {"status": "finished", "objective": {"name": "other"}, "label": label, "seed": None}
        write_json(path / "manifest.json", manifest | {"weights": "unet"})
        workshop.evaluate(path, "sft", int(folder[-1]))
    assert names(base=str(workshop.root / "base-12345678")) == [
        "mapo mapo-3333",
        next(name for name in names(base=str(workshop.root / "base-12345678")) if name.startswith("MaPO mapo-seed0-")),
        "model model-1111",
        "model model-2222",
    ]


def test_letters_that_are_marks_elsewhere(workshop) -> None:
    """A dollar, a pipe, markup of the terminal, a tag, a bracket: each is itself in every file."""
    hard = "$x|y [red]*_z_& <b>%#{}~^\\"
    workshop.base()
    folder = workshop.root / "other-1111"
    manifest = {"status": "finished", "objective": {"name": "other"}, "label": hard, "seed": None, "weights": "unet"}
    write_json(folder / "manifest.json", manifest)
    workshop.evaluate(folder, "sft", 1)
    page = compare(
        {"runs": PATTERN, "base": str(workshop.root / "base-12345678"), "output_dir": None, "confidence": 0.95}
    )
    assert "$x|y [red]*_z_&amp; &lt;b&gt;%#{}~^\\" in page.read_text() and "<b>%#" not in page.read_text()
    markdown = (page.parents[1] / "summary.md").read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| $x"))
    assert row.startswith(r"| $x\|y [red]\*\_z\_& \<b\>%#{}\~^\\ |")
    latex = (page.parents[1] / "summary.tex").read_text()
    assert r"\$x\textbar{}y {[}red{]}{*}\_z\_\& \textless{}b\textgreater{}\%\#\{\}" in latex
    with open(page.parents[1] / "summary.csv", newline="", encoding="utf-8") as lines:
        assert [row["method"] for row in csv.DictReader(lines)] == ["base", hard]


def test_the_same_run_twice_is_still_refused(workshop) -> None:
    """Although its folder has another name, and a manifest of other times."""
    workshop.base()
    folder = workshop.run("mapo")
    copy = folder.with_name("mapo-again")
    folder.rename(copy)
    workshop.run("mapo")
    write_json(copy / "manifest.json", read_json(copy / "manifest.json") | {"finished": "2030-01-01T00:00:00"})
    with pytest.raises(UserError, match="same method with the same seed"):
        collect(PATTERN)
