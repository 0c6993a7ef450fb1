"""Which runs are found, which belong together, and what stops a comparison that would not be fair."""

import os
import shutil
from pathlib import Path

import pytest

from mapolab.errors import UserError
from mapolab.evaluation.scores_table import read_scores, write_scores
from mapolab.files import read_json, write_json
from mapolab.report.collect import collect, common_parent
from mapolab.report.page import render_page
from mapolab.report.summary import compare_methods
from mapolab.report.tables import rich_tables, summary_markdown
from mapolab.report.words import subtitle

PATTERN = "outputs/emoji_style/*"


def test_a_pattern_a_parent_and_a_list_find_the_same_runs(three_methods) -> None:
    (three_methods.root / "comparison").mkdir()
    folders = sorted(str(path) for path in three_methods.root.iterdir() if path.name[0] in "dms")
    found = [collect(runs) for runs in (PATTERN, "outputs/emoji_style", folders, [*folders, PATTERN])]
    assert all(base.label == "base" for base, _ in found)
    labels = [[method.label for method in methods] for _, methods in found]
    assert labels == [["diffusion_dpo beta=8", "mapo beta=8", "sft"]] * 4
    assert common_parent(found[0][1]) == Path("outputs/emoji_style")


def test_a_list_keeps_its_order_and_brings_its_base(three_methods) -> None:
    runs = [next(str(path) for path in three_methods.root.glob(f"{name}-*")) for name in ("sft", "diffusion_dpo")]
    base, methods = collect(runs)
    assert [method.label for method in methods] == ["sft", "diffusion_dpo beta=8"]
    assert base.runs[0].folder == Path("outputs/emoji_style/base-12345678")


def test_seeds_of_one_label_are_one_method(workshop) -> None:
    workshop.base()
    for seed in (2, 0, 1):
        workshop.run("mapo", seed)
    _, (method,) = collect(PATTERN)
    assert method.seeds == (0, 1, 2)
    assert method.scores("style").values.shape == (3, 12)


def test_learning_rates_are_never_pooled(workshop) -> None:
    workshop.base()
    for learning_rate in (1e-4, 3e-4):
        for seed in (0, 1):
            workshop.run("mapo", seed, learning_rate=learning_rate)
    _, methods = collect(PATTERN)
    assert {(method.label, method.seeds) for method in methods} == {
        ("mapo beta=8 lr=0.0001", (0, 1)),
        ("mapo beta=8 lr=0.0003", (0, 1)),
    }


def test_one_run_twice_under_another_name_is_refused(three_methods) -> None:
    folder = next(three_methods.root.glob("mapo-*"))
    shutil.copytree(folder, folder.with_name("mapo-copy"))
    with pytest.raises(UserError, match="same method with the same seed"):
        collect(PATTERN)


def test_a_place_without_runs(workshop) -> None:
    with pytest.raises(UserError, match="no run at outputs/nowhere"):
        collect("outputs/nowhere")
    workshop.base()
    with pytest.raises(UserError, match="only the base"):
        collect(PATTERN)


def test_an_unfinished_run(three_methods) -> None:
    folder = three_methods.run("mapo", seed=1, status="interrupted")
    with pytest.raises(UserError, match=f"{folder} is interrupted, not finished"):
        collect(PATTERN)


def test_a_run_whose_weights_are_gone_is_compared_with_a_word(three_methods, capsys) -> None:
    folder = three_methods.run("mapo", seed=1)
    assert folder.is_dir()
    collect(PATTERN)
    assert f"The weights of {folder} are gone" in capsys.readouterr().out
    (folder / "unet").mkdir()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").touch()
    collect(PATTERN)
    assert f"The weights of {folder} are gone" not in capsys.readouterr().out


def test_a_run_without_evaluation_names_the_command(three_methods) -> None:
    folder = three_methods.run("mapo", seed=1, evaluated=False)
    with pytest.raises(UserError, match=f"`mapolab evaluate models={folder}`"):
        collect(PATTERN)


def test_evaluations_of_other_settings_are_named(three_methods) -> None:
    three_methods.settings = three_methods.settings | {"steps": 50, "guidance_scale": 5.0}
    three_methods.run("mapo", seed=1)
    with pytest.raises(UserError, match=r"steps: \d+ and \d+; guidance_scale: \d\.0 and \d\.0\."):
        collect(PATTERN)


def test_the_newest_evaluation_in_common_is_taken(workshop) -> None:
    for steps in (20, 50):
        workshop.settings = workshop.settings | {"steps": steps}
        folders = [workshop.base(), workshop.run("mapo"), workshop.run("sft")]
        for folder in folders:
            os.utime(folder / "evaluation" / workshop.hash / "scores.csv", (steps, steps))
    workshop.settings = workshop.settings | {"steps": 99}
    workshop.run("mapo")  # only this one has it
    base, _ = collect(PATTERN)
    assert base.runs[0].settings["steps"] == 50


def test_another_base_is_refused(three_methods) -> None:
    three_methods.base().rename(three_methods.root / "base-87654321")
    three_methods.base()
    links = next(three_methods.root.glob("mapo-*/evaluation/*/links.json"))
    write_json(links, {"base": "../base-87654321"})
    with pytest.raises(UserError, match="did not start from one base"):
        collect(PATTERN)


def test_a_score_that_is_no_number(three_methods) -> None:
    table = next(three_methods.root.glob("mapo-*/evaluation/*/scores.csv"))
    first, *_ = table.read_text().splitlines()[1:]
    table.write_text(table.read_text().replace(first, ",".join([*first.split(",")[:-1], "nan"])))
    _, methods = collect(PATTERN)
    with pytest.raises(UserError, match="pixel_distance"):
        methods[1].scores("pixel_distance")


def test_a_scorer_of_the_settings_without_a_column_is_refused(three_methods) -> None:
    settings = next(three_methods.root.glob("mapo-*/evaluation/*/settings.json"))
    about = read_json(settings)
    about["scorers"][1]["name"] = "../concept"
    write_json(settings, about)
    with pytest.raises(UserError, match=r"no column of the scorer \.\./concept"):
        compare_methods(*collect(PATTERN), 0.95)


def test_other_prompts_under_the_same_settings_are_refused(three_methods) -> None:
    table = next(three_methods.root.glob("sft-*/evaluation/*/scores.csv"))
    table.write_text(table.read_text().replace("shape 3 ", "shape 33 "))
    with pytest.raises(UserError, match="same prompts and seeds"):
        collect(PATTERN)


def test_categories_and_clusters_are_those_of_the_base(three_methods) -> None:
    """Tables of earlier versions have none; different ones are refused, and some that the base lacks."""

    def give(name: str, *labels: str) -> None:
        file = next(three_methods.root.glob(f"{name}-*/evaluation/*/scores.csv"))
        table = read_scores(file.parent)
        pictures = [picture | {"cluster": labels[picture["index"] % len(labels)]} for picture in table.pictures]
        write_scores(file.parent, pictures, {scorer: table.values(scorer) for scorer in table.scorers})

    give("base", "a", "b")
    give("mapo", "a", "b")
    base, _ = collect(PATTERN)
    assert [picture["cluster"] for picture in base.runs[0].pictures[:3]] == ["a", "b", "a"]
    give("mapo", "a", "c")
    with pytest.raises(UserError, match=r"base-12345678 and .*mapo-.* with another cluster: 'b' and 'c' for one"):
        collect(PATTERN)
    give("mapo", "a", "b")
    give("base", "")
    with pytest.raises(UserError, match=r"another cluster: none and 'a' for one of them. Give one `mapolab evaluate"):
        collect(PATTERN)


def test_another_base_can_be_named(three_methods) -> None:
    sft = next(three_methods.root.glob("sft-*"))
    base, methods = collect(PATTERN, base=str(sft))
    assert base.label == "sft"
    assert [method.label for method in methods] == ["diffusion_dpo beta=8", "mapo beta=8"]


def test_models_that_are_no_runs_stand_beside_them(three_methods) -> None:
    other = three_methods.root / "published-mapo"
    manifest = {"status": "finished", "objective": {"name": "other"}, "label": "published-mapo", "seed": None}
    write_json(other / "manifest.json", manifest)
    three_methods.evaluate(other, "mapo", 7)
    base, methods = collect([PATTERN])
    assert base.label == "base"
    assert "published-mapo" in [method.label for method in methods]


def test_other_settings_are_allowed_by_a_word(three_methods) -> None:
    three_methods.settings["steps"] = 50
    run = three_methods.run("mapo", seed=1)
    write_json(run / "evaluation" / three_methods.hash / "links.json", {"base": "../base-12345678"})
    three_methods.evaluate(three_methods.root / "base-12345678", "base", 0)
    with pytest.raises(UserError, match=r"steps: (20 and 50|50 and 20)"):
        collect(PATTERN)
    _, methods = collect(PATTERN, different_settings=True)
    assert len([run for method in methods for run in method.runs]) == 4


def test_another_version_of_a_scorer_is_refused(three_methods) -> None:
    file = next(three_methods.root.glob("sft-*/evaluation/*/settings.json"))
    settings = read_json(file)
    settings["scorers"][0]["fingerprint"] = "0123"
    write_json(file, settings)
    with pytest.raises(UserError, match="different versions of style"):
        collect(PATTERN)


def other_models(workshop, *labels: str) -> list[Path]:
    """Models that are no runs: those named `plain...` without weights of their own."""
    folders = []
    for label in labels:
        folder = workshop.root / f"{label}-1234"
        manifest = {"status": "finished", "objective": {"name": "other"}, "label": label, "seed": None}
        write_json(folder / "manifest.json", manifest | {"weights": None if label.startswith("plain") else "unet"})
        workshop.evaluate(folder, "base" if label.startswith("plain") else "mapo", 1)
        folders.append(folder)
    return folders


def test_the_base_of_models_that_are_no_runs_is_the_one_without_weights(workshop) -> None:
    other_models(workshop, "a-first", "plain-sdxl", "z-last")
    base, methods = collect(PATTERN)
    assert base.label == "plain-sdxl" and [method.label for method in methods] == ["a-first", "z-last"]
    second = other_models(workshop, "plain-two")
    with pytest.raises(UserError, match=r"nothing says which .*plain-sdxl-1234, .*plain-two-1234. Say it: base=<fold"):
        collect(PATTERN)
    assert collect(PATTERN, base=str(second[0]))[0].label == "plain-two"
    with pytest.raises(UserError, match="Say it: base=<folder>"):
        collect([str(workshop.root / "a-*"), str(workshop.root / "z-*")])


def test_of_models_that_nobody_trained_no_training_is_told(workshop) -> None:
    other_models(workshop, "mine", "plain-sdxl")
    compared = compare_methods(*collect(PATTERN), 0.95)
    told = " ".join([subtitle(compared, 12, 5), summary_markdown(compared), render_page(compared, [])])
    told += "".join(str(table.title) for table in rich_tables(compared))
    assert "mine, against plain-sdxl. 12 pictures a model." in told
    assert "plain-sdxl scores" in told and "worse than plain-sdxl" in told and "Differences from plain-sdxl" in told
    for wrong in (
        "training seed",
        "started from",
        "the base",
        "Base model",
        "Cost of training",
        'id="cost"',
        "seeds |",
    ):
        assert wrong not in told, wrong


def test_a_run_as_the_base_goes_by_its_own_name(three_methods) -> None:
    compared = compare_methods(*collect(PATTERN, base=str(next(three_methods.root.glob("sft-*")))), 0.95)
    assert (
        subtitle(compared, 12, 5) == "Diffusion-DPO and MaPO, against SFT. 12 pictures a model, one training seed each."
    )
