"""What models may be called, and paths that look like patterns."""

import shutil
from pathlib import Path

import pytest

from mapolab.errors import UserError
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.models import find_models
from mapolab.files import read_json
from mapolab.paths import find_paths
from mapolab.report.collect import find_runs


@pytest.fixture
def unet(tiny_pipeline_folder) -> dict[str, str]:
    return {"pretrained": str(tiny_pipeline_folder), "unet": str(tiny_pipeline_folder / "unet")}


@pytest.mark.parametrize(
    ("name", "label", "folder"),
    [
        ("a$b", "a$b", "a-b-"),
        ("${oc.env:HOME}", "${oc.env:HOME}", "--oc.env-HOME--"),
        ("../x/y", "../x/y", "..-x-y-"),
        ("  two\nwords ", "two-words", "two-words-"),
        ("مرحبا 日本", "مرحبا-日本", "---------"),
        ("[/red]", "[/red]", "--red--"),
        (5, "5", "5-"),
        ("x" * 100, "x" * 100, "x" * 100 + "-"),
    ],
)
def test_a_name_is_shown_as_it_is_and_a_folder_has_a_plain_one(unet, tmp_path, name, label, folder):
    (model,) = find_models([unet | {"name": name}], tmp_path)
    assert model.label == label
    assert model.folder.parent == tmp_path / "models" and model.folder.name == f"{folder}{model.fingerprint[:12]}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", r"blank name ''\. Give it another name: models=\[\{name: <a name>"),
        (" \t", "blank name"),
        ("x" * 101, "has 101 characters, more than 100"),
        ("a\0b", r"holds '\\x00', which cannot be shown"),
        ("a\x1b[31m", "which cannot be shown"),
        ("\ud800", r"holds '\\ud800', which cannot be shown"),
        ("a\u202eb", r"holds '\\u202e'"),
        ("Base", "cannot be called Base: so is the one that runs start from"),
        (["a"], r"has the name \['a'\]"),
    ],
)
def test_a_name_that_is_none_is_refused(unet, tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        find_models([unet | {"name": name}], tmp_path)


def test_models_take_their_names_from_their_places(unet, tiny_pipeline_folder, tmp_path, monkeypatch):
    place = shutil.copytree(tiny_pipeline_folder, tmp_path / "mine" / "base")
    monkeypatch.chdir(place)
    labels = [find_models([name], tmp_path)[0].label for name in (str(place), ".", "../base")]
    assert labels == ["mine-base"] * 3  # the base of runs is another model


def test_two_models_of_one_name_are_told_apart_or_refused(unet, tiny_pipeline_folder, tmp_path):
    other = shutil.copytree(tiny_pipeline_folder, tmp_path / "other")
    (other / "unet" / "config.json").write_text((other / "unet" / "config.json").read_text() + "\n")
    theirs = {"pretrained": str(tiny_pipeline_folder), "unet": str(other / "unet")}
    with pytest.raises(UserError, match=rf"two models called unet: .*/unet and {other}/unet\. Say which is which: mod"):
        find_models([unet, theirs], tmp_path)
    assert [model.label for model in find_models([unet, theirs | {"name": "b"}], tmp_path)] == ["unet", "b"]
    with pytest.raises(UserError, match=r"names one model twice, as a\$b and a&b"):
        find_models([unet | {"name": "a$b"}, unet | {"name": "a&b"}], tmp_path)
    assert len(find_models([unet, unet], tmp_path)) == 1


def test_a_model_has_the_name_that_it_was_last_given(unet, tmp_path):
    (tmp_path / "prompts.txt").write_text("a fox\n")
    settings = {
        "prompts": str(tmp_path / "prompts.txt"),
        "steps": 1,
        "height": 16,
        "width": 16,
        "scorers": ["jpeg_size"],
    }
    settings |= {"output_root": str(tmp_path)}
    for name in ("a$b", "[/red]", "a&b"):
        (folder,) = evaluate(settings | {"models": [unet | {"name": name}]})
        assert read_json(folder.parent.parent / "manifest.json")["label"] == name


def test_a_path_that_exists_is_no_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("out/[ab]/one", "out/[ab]/two", "out/a/one", "out/*/x"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text("{}")
    found = {
        "out/[ab]/one": ["out/[ab]/one"],
        "out/[ab]": ["out/[ab]"],
        "out/[ab]/*": ["out/[ab]/one", "out/[ab]/two"],
        "out/[ac]/*": ["out/a/one"],
        "out/*": ["out/*"],
        "out/**/x": ["out/*/x"],
        "*": ["out"],
        str(tmp_path / "out/[ab]/o*"): [str(tmp_path / "out/[ab]/one")],
        "nowhere/[": [],
        "": [],
        "x" * 300: [],
    }
    assert {pattern: list(map(str, find_paths(pattern))) for pattern in found} == found
    assert find_runs(["out/[ab]/*"]) == [Path("out/[ab]/one"), Path("out/[ab]/two")]
    with pytest.raises(UserError, match="There is no run at"):
        find_runs([""])


def test_a_run_in_a_folder_with_brackets_is_found(tmp_path):
    run = tmp_path / "out[1]" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    (run / "manifest.json").write_text('{"status": "interrupted"}')
    with pytest.raises(UserError, match=r"The run in .*out\[1\]/run is interrupted, not finished"):
        find_models(str(run), tmp_path)
