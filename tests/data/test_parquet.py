"""Rows, labels and indices of parquet files in Pick-a-Pic's schema."""

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from mapolab.data.records import BrokenRow, Source
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError


def write(path: Path, rows: list[dict], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def row(label, caption="a fox", **extra) -> dict:
    return {"caption": caption, "jpg_0": b"first", "jpg_1": b"second", "label_0": label, **extra}


@pytest.fixture
def opened(tmp_path):
    """Opens a path with its own cache folder."""
    return lambda path, split=None: open_source(str(path), split, None, tmp_path / "cache", 1)


def record(source: Source, number: int):
    block, offset = source.blocks.find(number)
    return source.records(block)[offset]


def test_one_record_a_row(tmp_path, opened):
    ids = {"image_0_uid": "uid-0", "image_1_uid": "uid-1", "num_example_per_prompt": 4}
    source = opened(write(tmp_path / "p.parquet", [row(1.0, **ids), row(0.0, "a kite", **ids)], row_group_size=1))
    assert source.block_sizes == (1, 1)
    found = record(source, 1)
    assert (found.row, found.caption, found.label, found.weight) == (1, "a kite", 0.0, 0.25)
    assert [(image.id, image.data) for image in found.images] == [("uid-0", b"first"), ("uid-1", b"second")]
    assert source.texts(1)[0].image_ids == ("uid-0", "uid-1")
    assert source.name(1) == "p.parquet, row 1"


def test_labels_say_what_annotators_said(tmp_path, opened):
    rows = [row(1.0), row(0.5), row(0.0), row(math.nan), row(None), row(0.7), row(1.7)]
    assert str(opened(write(tmp_path / "p.parquet", rows)).labels(0).tolist()) == "[1.0, 0.5, 0.0, nan, -1.0, 0.7, nan]"
    rows = [row(1.0, has_label=True), row(0.0, has_label=False), row(None, has_label=True), row(None, has_label=False)]
    assert str(opened(write(tmp_path / "q.parquet", rows)).labels(0).tolist()) == "[1.0, -1.0, nan, -1.0]"


def test_files_below_a_folder_are_read_in_the_order_of_their_names(tmp_path, opened):
    write(tmp_path / "data" / "b.parquet", [row(1.0, "second")])
    write(tmp_path / "data" / "a.parquet", [row(1.0, "first")])
    assert [record(opened(tmp_path / "data"), number).caption for number in (0, 1)] == ["first", "second"]


def test_the_fingerprint_follows_the_content_not_the_path(tmp_path, opened):
    one, same = write(tmp_path / "a.parquet", [row(1.0)]), write(tmp_path / "b.parquet", [row(1.0)])
    other = write(tmp_path / "c.parquet", [row(0.0)])
    assert opened(one).fingerprint == opened(same).fingerprint != opened(other).fingerprint


def test_an_index_is_kept_and_made_again_when_a_file_changes(tmp_path, opened):
    path = write(tmp_path / "p.parquet", [row(1.0)])
    before = opened(path)
    (kept,) = (tmp_path / "cache" / "index").glob("*.json")
    written = kept.stat().st_mtime_ns
    assert opened(path).index == before.index
    assert kept.stat().st_mtime_ns == written
    write(path, [row(1.0), row(0.0)])
    assert opened(path).block_sizes == (2,)


def test_single_images(tmp_path, opened):
    source = opened(write(tmp_path / "p.parquet", [{"caption": "a fox", "jpg_0": b"x", "label_0": 0.0}]))
    assert (source.images_per_row, record(source, 0).label, len(record(source, 0).images)) == (1, 0.0, 1)
    liked = opened(write(tmp_path / "q.parquet", [{"caption": "a fox", "jpg_0": b"x"}]))
    assert liked.labels(0).tolist() == [1.0]


def test_images_as_the_datasets_library_writes_them(tmp_path, opened):
    source = opened(write(tmp_path / "p.parquet", [row(1.0) | {"jpg_0": {"bytes": b"inner", "path": "x.jpg"}}]))
    assert record(source, 0).images[0].data == b"inner"


def test_broken_rows_are_told_apart(tmp_path, opened):
    source = opened(write(tmp_path / "p.parquet", [row(1.0, None), row(math.nan), row(1.0) | {"jpg_1": None}]))
    for number, reason in ((0, "no caption"), (1, "label_0 is nan")):
        with pytest.raises(BrokenRow) as error:
            record(source, number)
        assert error.value.reason == reason
    assert record(source, 2).images[1].data == b""  # a broken image, for those who look at it


def test_a_file_cut_off_after_it_was_indexed_has_broken_rows(tmp_path, opened):
    path = write(tmp_path / "p.parquet", [row(1.0)] * 3)
    source = opened(path)
    path.write_bytes(path.read_bytes()[:20])
    assert str(source.labels(0).tolist()) == "[nan, nan, nan]"
    with pytest.raises(BrokenRow):
        record(source, 2)
    path.unlink()
    with pytest.raises(BrokenRow, match="the file is missing"):
        record(opened_again(source), 1)


def opened_again(source: Source) -> Source:
    """The source as a new loader process would have it."""
    import pickle

    return pickle.loads(pickle.dumps(source))


def test_broken_and_missing_files_are_named_with_their_likely_rows(tmp_path, opened):
    for number in (0, 1, 3):
        path = write(tmp_path / "data" / f"train-{number:05d}-of-00004-0a1b.parquet", [row(1.0, str(number))] * 5)
    path.write_bytes(path.read_bytes()[:-10])
    source = opened(tmp_path / "data", "train")
    assert source.block_sizes == (5, 5)
    assert [(item.name, item.rows) for item in source.broken_files] == [
        ("train-00003-of-00004-0a1b.parquet", 5),
        ("train-00002-of-00004.parquet", 5),
    ]
    assert "cut off" in source.broken_files[0].reason
    assert "missing" in source.broken_files[1].reason


@pytest.mark.parametrize(
    ("rows", "message"),
    [([{"caption": "a fox"}], "lacks the column jpg_0"), ([{"caption": "x", "jpg_0": b"", "jpg_1": b""}], "label_0")],
)
def test_what_is_wrong_with_the_columns_is_said(tmp_path, opened, rows, message):
    with pytest.raises(UserError, match=message):
        opened(write(tmp_path / "p.parquet", rows))


def test_a_file_that_is_no_parquet(tmp_path, opened):
    (tmp_path / "p.parquet").write_text("caption,jpg_0")
    with pytest.raises(UserError, match="None of the data's parquet files can be read"):
        opened(tmp_path / "p.parquet")
    with pytest.raises(UserError, match="does not exist"):
        opened(tmp_path / "missing.parquet")


def test_a_column_of_weights_takes_the_place_of_the_prompts_counts(tmp_path, opened):
    rows = [row(1.0, num_example_per_prompt=4, weight=0.3), row(1.0, num_example_per_prompt=4, weight=None)]
    source = opened(write(tmp_path / "p.parquet", rows))
    assert source.has_weights
    assert (
        [record(source, number).weight for number in (0, 1)] == [text.weight for text in source.texts(0)] == [0.3, 0.25]
    )
    assert not opened(write(tmp_path / "q.parquet", [row(1.0, num_example_per_prompt=4)])).has_weights


READ = """
import resource, sys
from pathlib import Path
from mapolab.data.records import BrokenRow
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    source = open_source(sys.argv[1], None, None, Path(sys.argv[2]), 1)
    try:
        source.records(0)[0]
    except BrokenRow as broken:
        print(broken.reason)
    print(source.texts(0)[0].caption)
except UserError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""


def read_elsewhere(file: Path, tmp_path: Path) -> tuple[list[str], float]:
    """What a process says that reads the first block, and how many GB it grew by."""
    command = [sys.executable, "-c", READ, str(file), str(tmp_path / "index")]
    *said, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return said, float(grown)


@pytest.mark.parametrize("column", ["jpg_0", "caption"])
def test_a_dictionary_that_grows_to_gigabytes_is_refused(tmp_path, column, reliability):
    """One value of 1 MB, kept once and told for 30,000 rows: 30 GB, of which the footer says nothing."""
    rows = 30_000
    value = "".join(random.Random(0).choices("abcdefgh", k=1_000_000))
    value = pa.array([value.encode() if column == "jpg_0" else value])
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), value)
    columns = {"caption": ["a fox"] * rows, "jpg_0": [b"x"] * rows, "label_0": [1.0] * rows, column: repeated}
    file = tmp_path / "bomb.parquet"
    options = {"dictionary_pagesize_limit": 1 << 22, "store_schema": False, "row_group_size": rows}
    parquet.write_table(pa.table(columns), file, compression="zstd", **options)
    assert file.stat().st_size < 1_200_000
    said, grown = read_elsewhere(file, tmp_path)
    assert said[0] == "its row group takes more than 1 GiB once it is decoded"
    assert said[1] == ("None" if column == "caption" else "a fox")
    assert grown < 2
    reliability(
        f"A parquet file of 1 MB whose column {column} is 30 GB once it is decoded",
        "at most 2 GiB are taken; the row group counts as broken, with the reason",
        f"'{said[0]}'",
    )


def test_rows_of_nothing_are_bounded_too(tmp_path, opened):
    rows = (1 << 20) + 1
    nothing = {"caption": pa.string(), "jpg_0": pa.binary(), "label_0": pa.float64()}
    table = pa.table({name: pa.nulls(rows, kind) for name, kind in nothing.items()})
    parquet.write_table(table, tmp_path / "pairs.parquet", row_group_size=rows)
    with pytest.raises(UserError, match=r"pairs.parquet has a row group of 1,048,577 rows"):
        opened(tmp_path / "pairs.parquet")


def test_a_caption_is_bounded_and_is_text(tmp_path, opened):
    rows = [row(1.0), row(1.0, "a" * 1_000_000), row(1.0, "a red kite")]
    source = opened(write(tmp_path / "long.parquet", rows, row_group_size=3))
    assert [text.caption for text in source.texts(0)] == ["a fox", None, "a red kite"]
    with pytest.raises(BrokenRow, match="a caption of more than 100,000 characters"):
        record(source, 1)
    no_text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], "i4")), pa.py_buffer(b"\xe9")])
    table = pa.table({"caption": no_text, "jpg_0": [b"x"], "label_0": [1.0]})
    parquet.write_table(table, tmp_path / "no_text.parquet")
    with pytest.raises(BrokenRow, match="Invalid UTF8"):
        record(opened(tmp_path / "no_text.parquet"), 0)


@pytest.mark.parametrize(("column", "value"), [("caption", b"x"), ("caption", ["x"]), ("label_0", "x"), ("jpg_0", 5)])
def test_a_column_of_another_kind_is_refused(tmp_path, opened, column, value):
    file = write(tmp_path / "pairs.parquet", [row(1.0) | {column: value}])
    with pytest.raises(UserError, match=f"The column {column} of pairs.parquet holds .*, which are no "):
        opened(file)


def test_the_path_of_an_image_is_never_opened(tmp_path, opened, make_image):
    (tmp_path / "secret.png").write_bytes(make_image(0, (16, 16)))
    image = {"bytes": None, "path": str(tmp_path / "secret.png")}
    source = opened(write(tmp_path / "pairs.parquet", [row(1.0, jpg_0=image, jpg_1=image)]))
    assert [image.data for image in record(source, 0).images] == [b"", b""]


def test_whatever_is_damaged_is_a_broken_file_or_row(tmp_path, opened):
    """Bytes flipped all over the file: no other exception, and no other row where pages have checksums."""
    rows = [row(float(number % 2), f"caption {number}", image_0_uid=f"uid {number}") for number in range(8)]
    whole = write(tmp_path / "pairs.parquet", rows, row_group_size=4, write_page_checksum=True).read_bytes()
    expected = [record(opened(tmp_path / "pairs.parquet"), number) for number in range(8)]
    for place in range(4, len(whole) - 8, 11):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "pairs.parquet").write_bytes(damaged)
        try:
            source = opened(tmp_path / "pairs.parquet")
        except UserError:
            continue
        for number in range(min(8, sum(source.block_sizes))):
            try:
                found = record(source, number)
            except BrokenRow:
                continue
            if place < len(whole) - int.from_bytes(whole[-8:-4], "little") - 8:  # the footer has no checksum
                assert found == expected[number]


@pytest.mark.parametrize("kind", ["fifo", "device", "broken link", "loop"])
def test_only_regular_files_are_opened(tmp_path, opened, kind):
    write(tmp_path / "data" / "a.parquet", [row(1.0)])
    other = tmp_path / "data" / "b.parquet"
    if kind == "fifo":
        os.mkfifo(other)
    else:
        other.symlink_to({"device": "/dev/zero", "broken link": "nowhere", "loop": "b.parquet"}[kind])
    for path in (tmp_path / "data", other):
        with pytest.raises(UserError, match=r"b.parquet (is no regular file|does not exist)"):
            opened(path)


def test_a_damaged_index_is_made_again(tmp_path, opened):
    file = write(tmp_path / "pairs.parquet", [row(1.0), row(0.0)], row_group_size=1)
    opened(file)
    (kept,) = (tmp_path / "cache" / "index").glob("*.json")
    whole = kept.read_text()
    for place in range(0, len(whole), 7):
        kept.write_text(whole[:place] + ("7" if whole[place] != "7" else "8") + whole[place + 1 :])
        assert opened(file).block_sizes == (1, 1)
