"""Files are whole or absent; assets are found, and their absence is explained."""

import csv
import os
from pathlib import Path

import pytest

from mapolab import files
from mapolab.errors import UserError
from mapolab.paths import conf_folder, resolve


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "state.json"
    files.write_json(target, {"step": 1})
    # The disk is full at the last moment.
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        files.write_json(target, {"step": 2})
    assert files.read_json(target) == {"step": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_a_new_file_has_the_permissions_that_open_would_give(tmp_path: Path) -> None:
    files.write_text(tmp_path / "new", "x")
    (tmp_path / "opened").write_text("x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "opened").stat().st_mode


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    lines = [["a", "b"], ['say "hi", fox', "\r"], ["two\nlines\r\n", ""], [" x ", "\u2028\x85\x0b"]]
    files.write_csv(tmp_path / "table.csv", lines)
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as opened:
        assert list(csv.reader(opened)) == lines
    files.write_csv(tmp_path / "table.csv", [[None, 1, 0.5]])
    assert (tmp_path / "table.csv").read_bytes() == b",1,0.5\n"


def test_a_short_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert files.short_hash({"a": 1, "b": [2]}) == files.short_hash({"b": [2], "a": 1})
    assert files.short_hash({"a": 1}) != files.short_hash({"a": 2})
    assert len(files.short_hash("x")) == 8


def test_sha256_is_the_usual_one(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "abc", b"abc")
    assert files.sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_only_builtin_names_are_resolved() -> None:
    assert (conf_folder() / "train.yaml").is_file()
    assert resolve("owner/name") == "owner/name"
    assert Path(resolve("builtin:emoji")).is_dir()
    with pytest.raises(UserError, match=r"There is: .*builtin:emoji"):
        resolve("builtin:emojis")
