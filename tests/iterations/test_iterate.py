"""Rounds of drawing, ranking and training: the real command, killed in every phase."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_pairs import PROMPTS, content, rows_in

from mapolab.config.checks import check
from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.files import read_json, write_json, write_text
from mapolab.iterations.command import iterate
from mapolab.iterations.rounds import Round, iteration_folder, iteration_identity
from mapolab.reading import read_rows

PATIENCE = 300  # seconds; only a hang takes as long


@pytest.fixture
def overrides(tiny_pipeline_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Two rounds of twelve steps on ten pairs."""
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS, *(f"a {prompt}" for prompt in PROMPTS)]))
    (tmp_path / "test.txt").write_text("a horse\n")
    return {
        "rounds": 2, "prompts": tmp_path / "prompts.txt", "images_per_prompt": 2, "ranked_by": "[style]",
        "objective": "diffusion_dpo", "optimizer.lr": 1e-3, "model.pretrained": tiny_pipeline_folder,
        "data.preferred_style": "twemoji", "data.resolution": 16, "data.batch_size": 2,
        "trainer.max_steps": 12, "trainer.checkpoint_every": 4, "trainer.progress": "off",
        "evaluation.prompts": tmp_path / "test.txt", "evaluation.steps": 2, "evaluation.scorers": "[pixel_distance]",
        "output_root": tmp_path / "outputs", "output_dir": tmp_path / "rounds",
    }  # fmt: skip


def arguments(overrides: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in overrides.items()]


def checked(overrides: dict[str, Any]) -> dict[str, Any]:
    config = compose("iterate", arguments(overrides))
    check(config, "iterate")
    return config


def test_rounds_that_an_earlier_version_began_are_refused(overrides, tmp_path) -> None:
    own = checked(overrides | {"output_dir": "null", "data.micro_conditioning": "own"})
    begun = iteration_folder(own)
    write_json(begun / "manifest.json", {"status": "running", "settings": iteration_identity(own)})
    del own["data"]["micro_conditioning"]
    write_text(begun / "round-1" / "run" / "config.yaml", yaml.safe_dump(Round(own, begun, 1).phase_config("train")))
    with pytest.raises(UserError, match=r"before data\.micro_conditioning existed"):
        iterate(checked(overrides | {"output_dir": "null"}))


def test_what_another_iteration_made_is_refused_by_name(overrides, tmp_path) -> None:
    ours, other = (Round(checked(overrides | {"seed": seed}), tmp_path / "rounds", 1) for seed in (0, 1))
    pairs = {"status": "finished", "files": [], "settings": {"recipe": "ranked"}}
    write_json(ours.path / "pairs" / "manifest.json", pairs)  # as earlier versions wrote it
    assert ours.is_done("draw")
    write_json(ours.path / "pairs" / "manifest.json", pairs | {"made_for": ours.token})
    assert ours.is_done("draw")
    write_json(ours.path / "pairs" / "manifest.json", pairs | {"made_for": other.token})
    with pytest.raises(UserError, match=r"round-1/pairs was not made by this round of this iteration"):
        ours.is_done("draw")
    write_text(ours.path / "run" / "config.yaml", yaml.safe_dump(other.phase_config("train")))
    with pytest.raises(UserError, match=r"run was trained in another way than this iteration trains \(seed: 1 -> 0\)"):
        ours.is_done("train")
    run = {"status": "finished", "objective": {"name": "mapo"}, "label": "", "seed": 0, "started": "", "identity": "1a"}
    write_json(ours.path / "run" / "manifest.json", run)
    write_text(ours.model / "model_index.json", "{}")
    assert ours.is_done("export")  # as earlier versions left it
    made = {"settings": {"formats": ["pipeline"], "run": "1a"}, "files": {"model_index.json": 2}}
    write_json(ours.model / "export.json", made)
    assert ours.is_done("export")
    (ours.model / "model_index.json").unlink()
    assert not ours.is_done("export")
    write_json(ours.model / "export.json", made | {"settings": {"formats": ["pipeline"], "run": "2b"}})
    with pytest.raises(UserError, match=r"round-1/model was not made by this round"):
        ours.is_done("export")
    shutil.rmtree(ours.model)
    ours.model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="model leads out of"):
        ours.check_places()


def start(overrides: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mapolab", "iterate", *arguments(overrides)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    return output


def stop_when(process: subprocess.Popen[str], seen: Callable[[], bool], number: signal.Signals) -> str:
    """Send a signal once something is seen; what it said on stderr."""
    deadline = time.monotonic() + PATIENCE
    while not seen() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.poll() is None, "it was done before it could be stopped"
    process.send_signal(number)
    return process.communicate(timeout=PATIENCE)[1]


def result(folder: Path) -> dict[str, Any]:
    rounds = [folder / f"round-{number}" for number in (1, 2)]
    models = [(one / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() for one in rounds]
    pairs = [content(one / "pairs") for one in rounds]
    return {"models": models, "pairs": pairs, "summary": (folder / "iterations.csv").read_text()}


def test_a_round_starts_from_the_model_of_the_one_before(overrides) -> None:
    config = checked(overrides)
    first, second = (Round(config, Path("it"), number) for number in (1, 2))
    one, two = first.phase_config("train"), second.phase_config("train")
    assert one["model"] == config["model"] and two["model"]["pretrained"] == "it/round-1/model"
    assert (one["data"]["path"], two["data"]["path"]) == ("it/round-1/pairs", "it/round-2/pairs")
    assert one["seed"] == 0 and two["seed"] == second.phase_config("draw")["pairs"]["seed"] == 1000
    assert one["trainer"] == two["trainer"] and one["objective"] == {"name": "diffusion_dpo", "beta": 5000}
    # Its pairs may have nothing of what it is evaluated on.
    assert first.phase_config("draw")["pairs"]["held_out"] == str(overrides["evaluation.prompts"])


def test_more_rounds_are_the_same_iteration_and_other_drawing_is_not(overrides) -> None:
    overrides["output_dir"] = "null"
    folder = iteration_folder(checked(overrides))
    assert folder.name.startswith("iterate-diffusion_dpo-seed0-")
    assert iteration_folder(checked(overrides | {"rounds": 5})) == folder
    assert iteration_folder(checked(overrides | {"evaluation.steps": 3})) != folder
    assert iteration_folder(checked(overrides | {"minimum_gap": 0.1})) != folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images_per_prompt": 1}, "images_per_prompt=1 a prompt has nothing to be compared with"),
        ({"data.path": "pairs.parquet"}, "Each round makes its own pairs"),
        ({"prompts": "no.txt"}, "prompts=no.txt does not exist"),
        ({"ranked_by": "[]"}, "ranked_by needs a value"),
        ({"rounds": 0}, "rounds is 0"),
        ({"objective": "ddpo"}, "objective=ddpo draws and scores its own pictures"),
        ({"model": "tiny_twin_lora", "model.lora.learned_token": "sks"}, "A word is learned once"),
    ],
)
def test_mistakes_are_told_at_the_start(overrides, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        checked(overrides | changes)


def test_it_is_no_job_of_several_processes(overrides, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="Start it without torchrun"):
        iterate(checked(overrides))


@pytest.mark.slow
def test_a_phase_that_ends_on_purpose_says_why(overrides) -> None:
    process = start(overrides | {"minimum_gap": 2})
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "In round 1, phase draw: Of 10 prompts no pair is left (10 by minimum_gap of style)." in errors
    assert "Traceback" not in errors


@pytest.mark.faults
def test_killed_in_every_phase_it_ends_as_if_nothing_had_happened(overrides, tmp_path, reliability) -> None:
    finished(start(overrides))
    expected = result(tmp_path / "rounds")
    rows = read_rows(tmp_path / "rounds" / "iterations.csv")
    assert [row["round"] for row in rows] == ["0", "1", "2"] and all(row["evaluation_pixel_distance"] for row in rows)
    assert expected["models"][0] != expected["models"][1] and len(rows_in(tmp_path / "rounds/round-2/pairs")) == 10

    again = overrides | {"output_root": tmp_path / "elsewhere", "output_dir": tmp_path / "killed"}
    first, second = (tmp_path / "killed" / f"round-{number}" for number in (1, 2))

    def steps(one: Path) -> int:
        file = one / "run" / "metrics.csv"
        return file.read_text().count("\n") if file.exists() else 0

    moments: list[tuple[Callable[[], bool], signal.Signals]] = [
        (lambda: len(list((tmp_path / "elsewhere" / ".store").glob("*/*.png"))) >= 5, signal.SIGKILL),
        (lambda: steps(first) >= 4, signal.SIGKILL),
        (lambda: bool(list(first.glob(".model.*"))), signal.SIGKILL),
        (lambda: (second / "pairs" / "manifest.json").exists(), signal.SIGTERM),
        (lambda: steps(second) >= 6, signal.SIGINT),
    ]
    for seen, number in moments:
        process = start(again)
        errors = stop_when(process, seen, number)
        assert "Traceback" not in errors, errors
        if number != signal.SIGKILL:
            assert process.returncode == 128 + number and "The same command continues" in errors
    assert f"Model: {second / 'model'}" in finished(start(again))
    assert result(tmp_path / "killed") == expected
    assert not list(tmp_path.glob("killed/round-*/.*.tmp"))
    assert "The 2 rounds in" in finished(start(again))
    assert read_json(tmp_path / "killed" / "manifest.json")["restarts"] == len(moments)
    reliability(
        "kill -9, SIGTERM or Ctrl-C in each phase of mapolab iterate",
        "the same command goes on; every round's pairs and model have the same bytes",
        "five times in two rounds; pairs, models and iterations.csv equal to those of an undisturbed one",
    )
