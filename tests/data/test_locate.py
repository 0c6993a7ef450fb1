from pathlib import Path

import fsspec
import pytest

from mapolab.data.sources.locate import locate
from mapolab.errors import UserError

PICKAPIC = (
    "data/train-00000-of-00002-aaaaaaaaaaaaaaaa.parquet",
    "data/train-00001-of-00002-bbbbbbbbbbbbbbbb.parquet",
    "data/test-00000-of-00001-cccccccccccccccc.parquet",
    "data/test_unique-00000-of-00001-dddddddddddddddd.parquet",
    "README.md",
)


@pytest.fixture
def mirror(tmp_path) -> Path:
    """A folder with the files of Pick-a-Pic's repository."""
    for name in PICKAPIC:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(path, split=None) -> list[str]:
    return [file.name for file in locate(str(path), split, None).files]


def test_a_split_is_told_by_the_names(mirror):
    assert names(mirror, "train") == list(PICKAPIC[:2])
    assert names(mirror, "test") == [PICKAPIC[2]]
    assert names(mirror, "test_unique") == [PICKAPIC[3]]
    assert locate(str(mirror), "train", None).missing == ()


def test_training_on_all_splits_together_is_refused(mirror):
    with pytest.raises(UserError, match=r"holds the splits test, test_unique, train\. Choose one with data.split"):
        names(mirror)
    with pytest.raises(UserError, match=r"has no split validation\. It has test, test_unique, train"):
        names(mirror, "validation")


@pytest.mark.parametrize("layout", ["train.parquet test.parquet", "default/train/0.parquet default/test/0.parquet"])
def test_other_layouts(tmp_path, layout):
    for name in layout.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path, "train") == layout.split()[:1]


def test_data_without_splits(tmp_path):
    for name in ("mine.parquet", "yours.parquet"):
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["mine.parquet", "yours.parquet"]
    assert names(tmp_path / "mine.parquet") == ["mine.parquet"]
    with pytest.raises(UserError, match="tell no splits"):
        names(tmp_path, "train")


def test_endings_count_in_any_case(mirror):
    (mirror / PICKAPIC[1]).rename(mirror / PICKAPIC[1].replace(".parquet", ".PARQUET"))
    assert names(mirror, "train") == [PICKAPIC[0], PICKAPIC[1].replace(".parquet", ".PARQUET")]
    assert locate(str(mirror), "train", None).missing == ()


def test_parts_that_are_not_there_are_missing(mirror):
    (mirror / PICKAPIC[1]).unlink()
    assert locate(str(mirror), "train", None).missing == ("data/train-00001-of-00002.parquet",)
    assert locate(str(mirror / PICKAPIC[0]), None, None).missing == ()  # this one alone was asked for


def test_a_url_is_listed_like_a_folder(mirror):
    memory = fsspec.filesystem("memory")
    for name in PICKAPIC:
        memory.pipe(f"/mirror/{name}", (mirror / name).read_bytes())
    found = locate("memory://mirror", "train", None)
    assert found.remote
    assert [file.name for file in found.files] == list(PICKAPIC[:2])
    assert [file.size for file in found.files] == [len(name) for name in PICKAPIC[:2]]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/such/file.parquet", "does not exist"),
        ("./nowhere", "does not exist"),
        ("nothing://here", "cannot be opened: Protocol not known"),
        ("memory://empty", "is not there|has no parquet file"),
    ],
)
def test_what_cannot_be_found_is_said(path, message):
    with pytest.raises(UserError, match=message):
        names(path)
