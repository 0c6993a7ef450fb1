"""Which prompts a config names: files, the named sets from a mirror, and mistakes by name."""

import csv
import hashlib
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from mapolab.errors import UserError
from mapolab.evaluation.prompt_sets import MIRROR, PROMPT_SETS
from mapolab.evaluation.prompt_table import PromptRow
from mapolab.evaluation.prompts import find_prompts, find_rows, held_out
from mapolab.paths import resolve


def test_mistakes_are_named_by_the_key_that_was_typed(tmp_path):
    with pytest.raises(UserError, match=r"^prompts=.*none.txt does not exist"):
        find_prompts(str(tmp_path / "none.txt"), None, None, tmp_path)
    with pytest.raises(UserError, match=r"^evaluation\.prompts=.*none.txt does not exist"):
        held_out(str(tmp_path / "none.txt"), None, None, tmp_path)
    with pytest.raises(UserError, match=r"^prompts=partiprompt: Did you mean partiprompts\?"):
        find_prompts("partiprompt", None, None, tmp_path)


def test_endings_are_known_in_any_case_and_parquet_of_prompts_from_pairs(tmp_path, pairs_file):
    (tmp_path / "a.CSV").write_text("prompt\na fox\n")
    (tmp_path / "a.Txt").write_text("a fox\n")
    parquet.write_table(pa.table({"prompt": ["a fox"], "id": [1]}), tmp_path / "a.Parquet")
    for name in ("a.CSV", "a.Txt", "a.Parquet"):
        assert find_prompts(str(tmp_path / name), None, None, tmp_path) == ["a fox"], name
    captions = parquet.read_table(pairs_file).column("caption").to_pylist()
    assert set(find_prompts(str(pairs_file), None, None, tmp_path)) == set(captions)


def test_captions_of_a_data_set_follow_the_rule_of_tables(tmp_path, pairs_file):
    rows = parquet.read_table(pairs_file).to_pylist()
    for row, caption in zip(rows, ["a\rfox", " rain\n", *["two\tboats"] * len(rows)], strict=False):
        row["caption"] = caption
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    assert find_prompts(str(tmp_path / "pairs.parquet"), None, None, tmp_path) == ["a fox", "rain", "two boats"]
    rows[0]["caption"] = "a\0fox"
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "odd.parquet")
    with pytest.raises(UserError, match=r"caption of .*odd\.parquet holds the character U\+0000"):
        find_prompts(str(tmp_path / "odd.parquet"), None, None, tmp_path)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv(MIRROR, str(tmp_path))
    return tmp_path


def test_named_sets_come_from_a_mirror_and_must_be_the_known_files(mirror):
    with pytest.raises(UserError, match=r"holds no anime.json for the prompt set hpsv2. .*benchmark/anime.json of"):
        find_prompts("hpsv2", None, None, mirror)
    (mirror / "PartiPrompts.tsv").write_text("Prompt\tCategory\n" + "a fox\tanimals\n" * 1632)
    with pytest.raises(
        UserError, match=r"is not the file that the prompt set partiprompts is known by: its SHA-256 is "
    ):
        find_prompts("partiprompts", None, None, mirror)
    (mirror / "DrawBench Prompts - Sheet1.csv").write_text("Prompts,Category\n" + '"a fox, red",colours\n' * 200)
    assert find_rows("drawbench", None, None, mirror) == [PromptRow("a fox, red", "colours")] * 200
    (mirror / "DrawBench Prompts - Sheet1.csv").write_text("Prompts,Category\n" + '"a fox, red",colours\n' * 199)
    with pytest.raises(UserError, match="has 200 prompts, but 199 were found"):
        find_prompts("drawbench", None, None, mirror)


def test_files_that_are_the_known_ones_are_read_in_their_order(mirror, monkeypatch):
    """With the checksums of stand-ins: the real files cannot be had here."""
    known = {}
    for style in ("anime", "concept-art", "paintings", "photo"):
        content = json.dumps([f"{style} {number}" for number in range(800)]).encode()
        (mirror / f"{style}.json").write_bytes(content)
        known[f"benchmark/{style}.json"] = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(PROMPT_SETS, "hpsv2", replace(PROMPT_SETS["hpsv2"], files=known))
    found = find_rows("hpsv2", None, None, mirror)
    assert len(found) == 3200 and found[0] == PromptRow("anime 0", "anime") and found[-1].category == "photo"


def test_pickapics_captions_come_from_the_mirror_too_each_once_with_their_images(mirror):
    with pytest.raises(UserError, match=r"holds no test_unique-.*\.parquet for the prompt set pickapic_test_unique"):
        find_prompts("pickapic_test_unique", None, None, mirror)
    captions = [f"prompt {number % 487}" for number in range(500)]
    uids = {f"image_{side}_uid": [f"{side}-{row}" for row in range(500)] for side in (0, 1)}
    name = "test_unique-00000-of-00001-e852c19ead276a89.parquet"
    parquet.write_table(pa.table({"caption": captions, **uids}), mirror / name)
    assert find_prompts("pickapic_test_unique", None, None, mirror) == captions[:487]
    prompts, images = held_out("pickapic_test_unique", None, None, mirror)
    assert len(prompts) == 487 and len(images) == 1000 and "1-499" in images
    parquet.write_table(pa.table({"caption": captions[:-1]}), mirror / name)
    with pytest.raises(UserError, match="has 500 prompts, but 499 were found"):
        find_prompts("pickapic_test_unique", None, None, mirror)


def test_a_set_that_cannot_be_fetched_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"needs PartiPrompts.tsv .*nateraw/parti-prompts.*{MIRROR}"):
        find_prompts("partiprompts", None, None, tmp_path)
    with pytest.raises(UserError, match=f"needs data/test_unique.*pickapic_v2_no_images.*{MIRROR}"):
        find_prompts("pickapic_test_unique", None, None, tmp_path)


def test_held_out_captions_share_nothing_with_the_pairs():
    with open(resolve("builtin:emoji/prompts/test.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for pairs in resolve("builtin:emoji/pairs").iterdir():
        captions = parquet.read_table(pairs, columns=["caption"]).column("caption").to_pylist()
        assert not {row["prompt"] for row in rows} & set(captions)
        assert not any(row["concept"] in text for row in rows for text in captions)
