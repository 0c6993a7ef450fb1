"""Prompt files of every kind, the named sets from a mirror, and mistakes by name."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from mapolab.errors import UserError
from mapolab.evaluation.prompt_sets import MIRROR, check_count
from mapolab.evaluation.prompts import find_prompts, read_prompts
from mapolab.paths import resolve


def test_prompts_come_from_every_kind_of_file(tmp_path):
    assert len(read_prompts("builtin:emoji/prompts/test.csv")) == 96
    contents = {
        "p.csv": "id,prompt\n1,a fox\n2,rain\n",
        "p.tsv": "Prompt\tCategory\na fox\tanimals\nrain\tsky\n",
        "p.txt": "a fox\n\n  rain\n",
        "p.json": json.dumps(["a fox", "rain"]),
        "q.json": json.dumps([{"prompt": "a fox"}, {"prompt": "rain"}]),
        "p.jsonl": '{"caption": "a fox"}\n{"caption": "rain"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert read_prompts(str(tmp_path / name)) == ["a fox", "rain"], name
    parquet.write_table(pa.table({"prompt": ["a fox", "rain"], "id": [1, 2]}), tmp_path / "p.parquet")
    assert find_prompts(str(tmp_path / "p.parquet"), None, None, tmp_path) == ["a fox", "rain"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"\n\n", "holds no prompt"),
        ("p.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("p.csv", b"id,words\n1,a fox\n", "none of them named prompt"),
        ("p.json", b"{", "is not JSON"),
        ("p.json", b'{"prompt": "a fox"}', "is no list"),
        ("p.jsonl", b"3\n", "is no text"),
    ],
)
def test_mistakes_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_prompts(str(tmp_path / name))
    with pytest.raises(UserError, match="no such file"):
        read_prompts(str(tmp_path / "none.txt"))


def test_named_sets_come_from_a_mirror_and_must_be_whole(tmp_path, monkeypatch):
    monkeypatch.setenv(MIRROR, str(tmp_path))
    with pytest.raises(UserError, match=r"holds no anime.json for the prompt set hpsv2. .*benchmark/anime.json of"):
        find_prompts("hpsv2", None, None, tmp_path)
    (tmp_path / "benchmark").mkdir()
    for style in ("anime", "concept-art", "paintings", "photo"):
        prompts = [f"{style} {number}" for number in range(800)]
        (tmp_path / "benchmark" / f"{style}.json").write_text(json.dumps(prompts))
    found = find_prompts("hpsv2", None, None, tmp_path)
    assert len(found) == 3200 and found[0] == "anime 0" and found[-1] == "photo 799"
    check_count("hpsv2", found)
    with pytest.raises(UserError, match="has 3200 prompts, but 3199 were found"):
        check_count("hpsv2", found[1:])
    (tmp_path / "PartiPrompts.tsv").write_text("Prompt\tCategory\n" + "a fox\tanimals\n" * 1632)
    (tmp_path / "DrawBench Prompts - Sheet1.csv").write_text("Prompts,Category\n" + '"a fox, red",colours\n' * 200)
    check_count("partiprompts", find_prompts("partiprompts", None, None, tmp_path))
    assert find_prompts("drawbench", None, None, tmp_path)[0] == "a fox, red"


def test_a_set_that_cannot_be_fetched_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"needs PartiPrompts.tsv .*nateraw/parti-prompts.*{MIRROR}"):
        find_prompts("partiprompts", None, None, tmp_path)


def test_held_out_captions_share_nothing_with_the_pairs():
    with open(resolve("builtin:emoji/prompts/test.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for pairs in resolve("builtin:emoji/pairs").iterdir():
        captions = parquet.read_table(pairs, columns=["caption"]).column("caption").to_pylist()
        assert not {row["prompt"] for row in rows} & set(captions)
        assert not any(row["concept"] in text for row in rows for text in captions)
