"""A run's folder of a stranger: what its files name stays where it belongs, and what was changed is noticed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mapolab import files
from mapolab.errors import UserError
from mapolab.evaluation.saved import picture_file, read_base, read_settings
from mapolab.run_files import read_config, read_curves, read_manifest, with_checksum

MANIFEST = {"status": "finished", "objective": {"name": "mapo", "beta": 8.0}, "label": "mapo beta=8", "seed": 3}
CONFIG: dict[str, Any] = {
    "seed": 3,
    "objective": {"name": "mapo", "beta": 8.0},
    "data": {"path": "pairs.parquet", "batch_size": 2},
    "trainer": {"gradient_accumulation": 1, "max_steps": 3},
    "strategy": {"devices": 1, "num_nodes": 1},
    "model": {"pretrained": "base", "lora": None},
    "evaluation": {"prompts": None, "scorers": []},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """With an evaluation `1a2b3c4d`, whose base was evaluated too."""
    folder = tmp_path / "outputs" / "run"
    files.write_json(folder / "manifest.json", MANIFEST)
    files.write_text(folder / "config.yaml", yaml.safe_dump(CONFIG))
    files.write_text(folder / "metrics.csv", "step,loss\n0,1\n1,0.5\n2,0.25\n")
    base = tmp_path / "outputs" / "base"
    files.write_json(base / "manifest.json", MANIFEST | {"objective": {"name": "base"}, "seed": None})
    for evaluated in (folder, base):
        files.write_text(
            evaluated / "evaluation" / "1a2b3c4d" / "scores.csv", "index,prompt,seed,image\n0,a,1,images/0.png\n"
        )
        files.write_text(evaluated / "evaluation" / "1a2b3c4d" / "images" / "0.png", "a picture")
    files.write_json(folder / "evaluation" / "1a2b3c4d" / "links.json", {"base": "../base"})
    return folder


def put(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with `value` under a dotted key; without the key where it is `...`."""
    first, _, rest = key.partition(".")
    if rest:
        return config | {first: put(config.get(first) or {}, rest, value)}
    return {name: one for name, one in config.items() if name != first} | ({} if value is ... else {first: value})


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("objective.name", ..., r"has no objective\.name"),
        ("objective", "mapo", "under objective, which should be: "),
        ("data.batch_size", "2", "has '2' under data.batch_size, which should be: integer"),
        ("strategy.devices", 1.5, "under strategy.devices"),
        ("model.vae_dtype", "float128", "model.vae_dtype=float128 does not exist"),
        ("model.lora", {"rank": []}, "under model.lora.rank"),
        ("model.lora", {"learned_token": '"); import os'}, "which is no name of one"),
        ("model.variant", "a" * 256, "too long for a name"),
        ("evaluation.steps", 0, "evaluation.steps is 0; give 1 or more"),
        ("evaluation.scorers", [5], r"under evaluation\.scorers\.0"),
        ("rollout", {"rewards": [{"scorer": "jpeg_size", "weight": "x"}]}, "rollout.rewards"),
        ("from_environment", {"seed": 5}, "under from_environment.seed"),
    ],
)
def test_values_of_a_wrong_type_or_range_are_named(run: Path, key: str, value: Any, told: str) -> None:
    assert read_config(run) == CONFIG
    files.write_text(run / "config.yaml", yaml.safe_dump(put(CONFIG, key, value)))
    with pytest.raises(UserError, match=f"{run / 'config.yaml'}.*{told}"):
        read_config(run)


def test_a_manifest_must_say_what_it_is_of(run: Path) -> None:
    for key, value in (("label", ...), ("seed", "3"), ("status", "done"), ("objective", {}), ("versions", [1])):
        files.write_json(run / "manifest.json", put(MANIFEST, key, value))
        with pytest.raises(UserError, match=f"manifest.json has .*{key}"):
            read_manifest(run)


@pytest.mark.parametrize(
    "image",
    [
        "../../../../secret.png", "images/../../../../../secret.png", "images/../images/0.png", "/etc/secret.png",
        "images/sub/0.png", "images", "", "file:///etc/secret.png", "images/..", "images\\..\\0.png", "images/0.png\0",
        "images/gone.png", "images/link.png",
    ],
)  # fmt: skip
def test_no_picture_but_the_evaluations_own_is_read(run: Path, tmp_path: Path, image: str) -> None:
    evaluation = run / "evaluation" / "1a2b3c4d"
    (tmp_path / "secret.png").write_text("mine")
    (evaluation / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    assert picture_file(evaluation, "images/0.png").read_text() == "a picture"
    with pytest.raises(UserError, match=r"which is not in|is missing|leads out of"):
        picture_file(evaluation, image)


def test_a_folder_of_pictures_that_is_a_link_is_not_followed(run: Path, tmp_path: Path) -> None:
    evaluation = run / "evaluation" / "1a2b3c4d"
    shutil.move(evaluation / "images", tmp_path / "elsewhere")
    (evaluation / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of"):
        picture_file(evaluation, "images/0.png")


def test_a_link_leads_to_an_evaluated_base(run: Path, tmp_path: Path) -> None:
    evaluation = run / "evaluation" / "1a2b3c4d"
    assert read_base(run, evaluation) == run / "../base"
    for named, told in (
        (str(tmp_path / "outputs" / "base"), "no path from"),
        (".", "no base model"),
        (5, "under base"),
    ):
        files.write_json(evaluation / "links.json", {"base": named})
        with pytest.raises(UserError, match=told):
            read_base(run, evaluation)
    files.write_json(evaluation / "links.json", {"base": "../gone"})
    assert read_base(run, evaluation) is None


def test_figures_that_were_changed_are_refused_and_other_changes_told(run: Path, capsys) -> None:
    whole = (run / "metrics.csv").read_text()
    sums = {name: files.sha256(run / name) for name in ("metrics.csv", "config.yaml")}
    manifest = with_checksum(MANIFEST | {"steps": 3, "checksums": sums}, "manifest")
    files.write_json(run / "manifest.json", manifest)
    assert read_manifest(run) == manifest and read_curves(run, "metrics.csv", manifest)["loss"] == [1, 0.5, 0.25]
    assert read_config(run) == CONFIG and not capsys.readouterr().err
    for text in (whole.replace("0.25", "0.26"), whole.replace("2,0.25\n", "")):
        (run / "metrics.csv").write_text(text)
        with pytest.raises(UserError, match="was changed since the run was finished"):
            read_curves(run, "metrics.csv", manifest)
    os.unlink(run / "metrics.csv")
    with pytest.raises(UserError, match="is missing"):
        read_curves(run, "metrics.csv", manifest)
    files.write_text(run / "config.yaml", yaml.safe_dump(put(CONFIG, "model.pretrained", "elsewhere")))
    assert read_config(run)["model"]["pretrained"] == "elsewhere"  # it may have been moved
    files.write_json(run / "manifest.json", manifest | {"label": "mine"})
    assert read_manifest(run)["label"] == "mine"
    told = capsys.readouterr().err
    assert "config.yaml was changed since the run was finished" in told and "manifest.json was changed since" in told


def test_curves_of_an_earlier_version_that_lack_steps_are_told(run: Path, capsys) -> None:
    assert len(read_curves(run, "metrics.csv", MANIFEST | {"steps": 9})["step"]) == 3
    assert "metrics.csv has 3 steps, and the run had 9" in capsys.readouterr().err


def test_settings_that_were_changed_are_refused(run: Path) -> None:
    evaluation = run / "evaluation" / "1a2b3c4d"
    scorer = {"name": "style", "kind": "score", "higher_is_better": True, "description": "x", "fingerprint": "12345678"}
    settings = {"scorers": [scorer], "prompt_count": 1, "seed": 1, "steps": 2, "guidance_scale": 3.0}
    files.write_json(evaluation / "settings.json", with_checksum(settings, "settings"))
    assert read_settings(evaluation)["scorers"] == [scorer]
    text = (evaluation / "settings.json").read_text()
    for old, new in (("12345678", "12345679"), ('"higher_is_better": true', '"higher_is_better": false')):
        (evaluation / "settings.json").write_text(text.replace(old, new))
        with pytest.raises(UserError, match="was changed since it was written"):
            read_settings(evaluation)
    files.write_json(evaluation / "settings.json", settings | {"scorers": [scorer, scorer]})
    with pytest.raises(UserError, match="two scorers called style"):
        read_settings(evaluation)
    assert json.loads(text)["checksums"].keys() == {"settings"}
