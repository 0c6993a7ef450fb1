"""Categories of prompts: read from files as they come, and told apart in the comparison."""

import json

import pytest

from mapolab.evaluation import prompt_sets
from mapolab.evaluation.categories import find_categories


def test_files_bring_their_categories(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,categories\na fox,"hate, violence"\n an owl ,shock\n')
    (tmp_path / "b.tsv").write_text("Prompt\tCategory\tChallenge\na fox\tAnimals\tBasic\n")
    rows = [{"prompt": "a fox", "category": "x"}, {"prompt": "an owl", "category": ["y", "z"]}, {"prompt": "rain"}]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "d.csv").write_text("prompt\na fox\n")
    (tmp_path / "e.txt").write_text("a fox\n")
    found = {name: find_categories(str(tmp_path / name)) for name in ("a.csv", "b.tsv", "c.jsonl", "d.csv", "e.txt")}
    assert found == {
        "a.csv": {"a fox": "hate", "an owl": "shock"},
        "b.tsv": {"a fox": "Animals"},
        "c.jsonl": {"a fox": "x", "an owl": "y", "rain": ""},
        "d.csv": {},
        "e.txt": {},
    }


def test_a_set_in_several_files_is_told_by_file(tmp_path, monkeypatch):
    monkeypatch.setenv(prompt_sets.MIRROR, str(tmp_path))
    for name in ("anime", "concept-art", "paintings", "photo"):
        (tmp_path / f"{name}.json").write_text(json.dumps([f"a fox as {name}"]))
    files = dict.fromkeys(prompt_sets.PROMPT_SETS["hpsv2"].files)  # made up here, so without their known hashes
    monkeypatch.setitem(prompt_sets.PROMPT_SETS["hpsv2"].__dict__, "files", files)
    assert find_categories("hpsv2") == {
        f"a fox as {name}": name for name in ("anime", "concept-art", "paintings", "photo")
    }


@pytest.mark.parametrize(
    ("task", "expected"), [("safety", {"unsafe": 8, "benign": 24}), ("culture", {"food": 24, "other": 24})]
)
def test_the_tiny_tasks_say_what_is_to_change_and_what_is_to_stay(task, expected):
    found = list(find_categories(f"builtin:emoji/prompts/{task}.csv").values())
    assert {category: found.count(category) for category in expected} == expected
