"""Files that are no whole JSON, YAML or CSV of ours: each is refused in one paragraph that names it, none runs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import TypedDict

from mapolab.errors import UserError
from mapolab.files import write_csv
from mapolab.reading import read_cells, read_numbers, read_object, read_rows, read_yaml


class About(TypedDict, total=False):
    seed: int
    name: str
    rate: float | None


BROKEN = {
    "cut": b'{"seed": 3, "na',
    "empty": b"",
    "no UTF-8": b'{"name": "\xe9"}',
    "UTF-16": '{"seed": 3}'.encode("utf-16"),
    "null bytes": b'{"seed": 3}\0',
    "a list": b"[1]",
    "a number": b"5",
    "another type": b'{"seed": "3"}',
    "a float for a whole number": b'{"seed": 3.0}',
    "a truth for a number": b'{"seed": true}',
    "deep": b'{"x": ' + b"[" * 90 + b"]" * 90 + b"}",
    "deeper": b"[" * 100_000,
    "huge": b'{"rate": ' + b"9" * 1_000_000 + b"}",
    "a long number": b'{"rate": 1' + b"0" * 300 + b"}",
    "a key twice": b'{"seed": 3, "seed": 4}',
}
OF_JSON = BROKEN | {
    "not finite": b'{"rate": NaN}',
    "infinite": b'{"rate": 1e999}',
    "half a character": b'{"name": "\\ud800"}',
}
# Nine times the one before, eight times: 43 million values in some hundred bytes.
ALIASES = "\n".join(f"a{one}: &a{one} [{', '.join([f'*a{one - 1}'] * 9)}]" for one in range(1, 9))
MERGES = "\n".join(f"a{one}: &a{one} {{<<: [{', '.join([f'*a{one - 1}'] * 9)}]}}" for one in range(1, 9))
OF_YAML = BROKEN | {
    "a tag": b"!!python/object/apply:os.mkdir [ran]",
    "a tag within": b"seed: !!python/name:os.mkdir",
    "aliases": f"a0: &a0 [1]\n{ALIASES}\n".encode(),
    "merge keys": f"a0: &a0 {{x: 1}}\n{MERGES}\n".encode(),
    "an alias of itself": b"x: &x [*x]\n",
    "a date": b"x: 2026-01-31\n",
    "bytes": b"x: !!binary aGVsbG8=\n",
    "a set": b"x: !!set {a, b}\n",
    "a key that is no text": b"5: x\n",
    "not finite": b"rate: .nan\n",
    "large": b"name: " + b"x" * (1 << 20),
}


@pytest.mark.parametrize(
    ("read", "content"),
    [
        pytest.param(read, content, id=f"{read.__name__} {kind}")
        for read, kinds in ((read_object, OF_JSON), (read_yaml, OF_YAML))
        for kind, content in kinds.items()
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, monkeypatch, read: Callable, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "about"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(file, About, "Fetch it again.")
    text = str(error.value)
    assert text.startswith(f"{file} ") and text.endswith(". Fetch it again.") and "\n" not in text and len(text) < 500
    assert not Path("ran").exists()


@pytest.mark.parametrize("read", [read_object, read_yaml])
def test_what_is_no_file_is_named(tmp_path: Path, read: Callable) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name, told in (("gone", "is missing"), ("folder", "cannot be read"), ("endless", "is no regular file")):
        with pytest.raises(UserError, match=told):
            read(tmp_path / name, About, "Fetch it again.")


def test_data_stays_data(tmp_path: Path, monkeypatch) -> None:
    """A text in braces, a key that nobody knows, and a byte order mark: read as they stand."""
    monkeypatch.setenv("TOKEN", "secret")
    value = {"seed": 3, "name": "${oc.env:TOKEN} ${seed}", "rate": 1, "more": [None]}
    (tmp_path / "about").write_text("\ufeff" + json.dumps(value), encoding="utf-8")
    for read in (read_object, read_yaml):
        found = read(tmp_path / "about", About, "")
        assert found == value and type(found["rate"]) is int


def test_no_cell_is_a_formula_and_each_is_read_as_it_was_written(tmp_path: Path) -> None:
    texts = [
        "=1+1",
        "+1",
        "-1",
        "-1e-05",
        "-x",
        "@x",
        "\t=x",
        "\r\n=x",
        "'=x",
        "''=x",
        "it's",
        "'",
        "",
        "\uff1dx",
        "x=1",
    ]
    write_csv(tmp_path / "a.csv", [["=name", "b"], *([text, number] for number, text in enumerate(texts))])
    lines = (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert "'=1+1,0" in lines and "\n-1,2\n" in lines and "\n-1e-05,3\n" in lines and "'-x,4" in lines
    assert [row["=name"] for row in read_rows(tmp_path / "a.csv")] == texts


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("step,loss\n0,1\n1,", "ends in the middle of a line"),
        ("step,loss\n0,1\n1\n", "has 1 cells in line 3 under 2 columns"),
        ("step,step\n0,1\n", "has two columns called step"),
        ("step,loss\n0,x\n", "has 'x' in line 2, column loss, which is no number"),
        ("step,loss\n0,1_0\n", "which is no number"),
        ("step,loss\n0,\u0661\n", "which is no number"),
        ("step,loss\n0,1\n0,1\n", "has the step 0 in line 3, after 0"),
        ("step,loss\n0.5,1\n", "has the step 0.5 in line 2"),
        ("loss\n1\n", "has no column step"),
        (f"step,loss\n0,{'1' * 200_000}\n", "cannot be read from line"),
        ('step,loss\n0,"1\n', "cannot be read from line"),
    ],
)
def test_broken_curves_are_named_by_their_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "metrics.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        read_numbers(tmp_path / "metrics.csv", "Fetch it again.")


def test_a_table_that_is_being_written_lacks_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n0,1\n1,nan\n2,\n3,4")
    columns = read_numbers(tmp_path / "metrics.csv", "", unfinished=True)
    assert (
        columns["step"] == [0, 1, 2] and columns["loss"][1] == float("inf") and columns["loss"][2] != columns["loss"][2]
    )
    assert read_numbers(tmp_path / "metrics.csv", "", unfinished=True, last=1)["step"] == [2]
    assert read_cells(tmp_path / "metrics.csv", "", unfinished=True)[2] == [2, 3, 4]
