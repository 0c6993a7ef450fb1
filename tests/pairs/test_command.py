"""What is kept, what is refused, and that nothing depends on how the command was run."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from made_pairs import PROMPTS, content, origins, rows_in

from mapolab.errors import RunError, UserError
from mapolab.evaluation.scorers.emoji import StyleScorer
from mapolab.files import read_json

NOTHING_DRAWN = {"models": None, "prompts": None, "images_per_prompt": 1}
RANKED = {"images_per_prompt": 3, "ranked_by": "[style]"}


def between(values: list[float], index: int) -> float:
    return (values[index] + values[index + 1]) / 2


def test_limits_by_score_leave_pairs_out_and_say_how_many(made, tmp_path) -> None:
    every = origins(made("ranked", **RANKED, scorers="[pixel_distance]"))
    gaps = sorted(float(row["style_chosen"]) - float(row["style_rejected"]) for row in every)
    chosen = sorted(float(row["style_chosen"]) for row in every)
    farthest = sorted(max(float(row[f"pixel_distance_{side}"]) for side in ("chosen", "rejected")) for row in every)
    limits = {
        "minimum_gap": (f"{between(gaps, 1)}", "minimum_gap of style", 2),
        "minimum_score": (f"{{style: {between(chosen, 2)}}}", "minimum_score of style", 3),
        "maximum_score": (f"{{style: {between(chosen, 0)}}}", "maximum_score of style", 4),
    }
    for key, (limit, reason, count) in limits.items():
        folder = made("ranked", **RANKED, **{key: limit}, output_dir=tmp_path / key)
        assert read_json(folder / "manifest.json")["counts"]["left_out"] == {reason: count}
        assert len(rows_in(folder)) == 5 - count
    # Of generations that may not be shown the others are ranked.
    limit = between(farthest, 3)
    given = {"scorers": "[pixel_distance]", "maximum_of_either": f"{{pixel_distance: {limit}}}"}
    fit = origins(made("ranked", **RANKED, **given, output_dir=tmp_path / "either"))
    assert len(fit) >= 4 and fit != every
    assert all(float(row[f"pixel_distance_{side}"]) <= limit for row in fit for side in ("chosen", "rejected"))


def test_what_leaves_no_pair_is_refused_and_the_folder_stays_free(made) -> None:
    with pytest.raises(UserError, match=r"Of 5 prompts no pair is left \(5 by minimum_gap of style\)"):
        made("ranked", **RANKED, minimum_gap=2)
    assert len(rows_in(made("ranked", **RANKED))) == 5


def test_ties_alone_are_no_pairs(made, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(StyleScorer, "__call__", lambda self, pictures, prompts: torch.ones(len(pictures)))
    with pytest.raises(UserError, match=r"All 5 pairs are ties by style.*a scorer that tells them apart"):
        made("ranked", **RANKED)
    assert not (tmp_path / "pairs" / "manifest.json").exists()


def test_a_scorer_that_forgets_a_picture_is_named(made, monkeypatch) -> None:
    monkeypatch.setattr(StyleScorer, "__call__", lambda self, pictures, prompts: torch.ones(len(pictures) - 1))
    with pytest.raises(RunError, match=r"The scorer style gave scores of shape \(1,\) for 2 pictures"):
        made("ranked", **RANKED)


def test_prompts_that_others_are_judged_on_are_refused_or_dropped(made, tmp_path) -> None:
    (tmp_path / "test.txt").write_text("A  Fox\nrain\na horse\n")
    with pytest.raises(UserError, match=r"2 of 5 captions, such as 'a fox', stand in held_out=.*drop_held_out=true"):
        made("ranked", **RANKED, held_out=tmp_path / "test.txt")
    folder = made("ranked", **RANKED, held_out=tmp_path / "test.txt", drop_held_out=True)
    assert [row["caption"] for row in rows_in(folder)] == ["two boats", "a red kite", "a cat"]
    # Who stays is drawn from the same noise as with the others.
    assert [row["position"] for row in origins(folder)] == ["1", "3", "4"]
    assert read_json(folder / "manifest.json")["counts"]["left_out"] == {"held out": 2}


def test_a_folder_of_other_pairs_or_other_things_is_refused(made, tmp_path) -> None:
    folder = made("ranked", **RANKED)
    before = content(folder)
    with pytest.raises(UserError, match=r"made in another way \(labels: hard -> soft\)"):
        made("ranked", **RANKED, labels="soft", label_scale=1.0)
    with pytest.raises(UserError, match=r"holds something else \(outputs\)"):
        made("ranked", **RANKED, output_dir=tmp_path)
    made("ranked", **RANKED)
    assert content(folder) == before and read_json(folder / "manifest.json")["restarts"] == 0


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("ranked", {"images_per_prompt": 1}, "images_per_prompt=1 a prompt has nothing to be compared with"),
        ("ranked", {"ranked_by": None}, "needs ranked_by"),
        ("ranked", {"ranked_by": "[pickscor]"}, "Did you mean pickscore?"),
        ("ranked", {"ranked_by": "style"}, r"Give a list, such as ranked_by=\[style\]"),
        ("ranked", {"minimum_gap": "{stile: 1}"}, "the scorer stile. Did you mean style?"),
        ("ranked", {"votes": "v.jsonl"}, "votes belongs to recipe=votes"),
        ("prefixes", {"rejected_prefix": "''"}, "both are the same here"),
        ("models", {}, "draws with 2 models"),
        (
            "smoothed",
            NOTHING_DRAWN | {"data_path": "no.parquet", "labels": "soft", "label_scale": 5},
            "data_path=no.parquet does not exist",
        ),
        ("targets", {"targets": "nowhere", "prompts": None}, "targets=nowhere is no folder"),
        ("votes", NOTHING_DRAWN | {"votes": "no.jsonl"}, "votes=no.jsonl does not exist"),
        ("votes", {"votes": "no.jsonl", "prompts": None}, "recipe=votes draws nothing, so images_per_prompt"),
        ("smoothed", NOTHING_DRAWN | {"data_path": "p", "labels": "soft"}, "labels=soft by style needs label_scale"),
        ("smoothed", NOTHING_DRAWN | {"data_path": "p", "label_scale": "some"}, "label_scale is some; give a number"),
        ("smoothed", {"data_path": "p", "labels": "soft", "prompts": "p"}, "prompts belongs to recipe=prefixes or"),
        ("targets", {"targets": "t", "prompts": None, "limit": 2}, "limit belongs to recipe=prefixes or models or"),
        ("prefixes", {"chosen_prefix": "A.", "rejected_prefix": "B."}, "would run into the prompt's first word"),
        ("ranked", {"scorers": "[stile]"}, "scorers names stile. Did you mean style?"),
        ("ranked", {"ranked_by": "[style,style]"}, "ranked_by and scorers has style twice"),
    ],
)
def test_a_mistake_is_told_before_anything_is_drawn(made, tmp_path, recipe, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        made(recipe, **RANKED | changes)
    assert not (tmp_path / "outputs" / ".store").exists()


def test_a_reward_that_is_not_finite_ends_the_command(made, monkeypatch) -> None:
    judge = StyleScorer.__call__
    monkeypatch.setattr(StyleScorer, "__call__", lambda *given: judge(*given) * float("nan"))
    with pytest.raises(RunError, match=r"The scorer style gave nan for the picture .*, drawn by .* from 'a fox'"):
        made("ranked", **RANKED)


def start(overrides: dict[str, Any], **changes: Any) -> subprocess.Popen[str]:
    given = overrides | {"recipe": "ranked", **RANKED} | changes
    command = [sys.executable, "-m", "mapolab", "make-pairs", *(f"{key}={value}" for key, value in given.items())]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    return output


@pytest.mark.slow
def test_killed_and_continued_by_two_processes_it_makes_the_same_files(made, overrides, tmp_path) -> None:
    whole = made("ranked", **RANKED)
    overrides |= {"output_dir": tmp_path / "killed", "output_root": tmp_path / "elsewhere"}
    process, store = start(overrides), tmp_path / "elsewhere" / ".store"
    deadline = time.monotonic() + 240
    while len(list(store.glob("*/*.png"))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    drawn = len(list(store.glob("*/*.png")))
    assert 4 <= drawn < 3 * len(PROMPTS) and not (tmp_path / "killed" / "manifest.json").exists()
    assert "5 pairs" in finished(start(overrides, devices=2))
    assert content(tmp_path / "killed") == content(whole)
    assert "are finished" in finished(start(overrides))


PROGRAM = """
import os, sys
from mapolab import files
from mapolab.cli import main
from mapolab.pairs import writing
writing.ROWS_PER_PART = 2
write = files.write_bytes
def until_the_second_part(path, data):
    write(path, data)
    if path.name.startswith("train-00001"):
        os.kill(os.getpid(), 9)
if sys.argv.pop(1) == "killed":
    files.write_bytes = until_the_second_part
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.faults
def test_killed_between_its_files_it_writes_the_others(overrides: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(kind: str, folder: str) -> int:
        given = overrides | {"recipe": "ranked", "output_dir": tmp_path / folder} | RANKED
        command = [sys.executable, tmp_path / "program.py", kind, "make-pairs"]
        return subprocess.run([*command, *(f"{key}={value}" for key, value in given.items())], timeout=240).returncode

    assert run("whole", "whole") == 0
    assert run("killed", "killed") == -9
    killed = tmp_path / "killed"
    assert [file.name for file in sorted(killed.glob("*.parquet"))] == [
        "train-00000-of-00003.parquet", "train-00001-of-00003.parquet",
    ]  # fmt: skip
    first = (killed / "train-00000-of-00003.parquet").stat().st_mtime_ns
    assert run("whole", "killed") == 0
    assert content(killed) == content(tmp_path / "whole")
    assert (killed / "train-00000-of-00003.parquet").stat().st_mtime_ns == first
    assert read_json(killed / "manifest.json")["restarts"] == 1
