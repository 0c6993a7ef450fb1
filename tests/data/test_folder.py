import json

import pytest

from mapolab.data.records import BrokenRow
from mapolab.data.sources.folder import is_image_folder
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError


def make(folder, files: dict[str, str | bytes]):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return open_source(str(folder), None, None, folder / "cache", 1)


IMAGES = {"w/a.png": b"wa", "l/a.png": b"la", "w/b.jpg": b"wb", "l/b.jpg": b"lb"}


@pytest.mark.parametrize(
    "captions",
    [
        {"captions.csv": 'name,caption\na.png,a fox\nb.jpg,"kites, red"\n'},
        {"captions.jsonl": '{"name": "a.png", "caption": "a fox"}\n{"name": "b.jpg", "caption": "kites, red"}\n'},
        {"w/a.txt": "a fox\n", "w/b.txt": "kites, red"},
    ],
)
def test_pairs_under_equal_names(tmp_path, captions):
    source = make(tmp_path, IMAGES | captions)
    assert (source.images_per_row, source.block_sizes, source.labels(0).tolist()) == (2, (2,), [1.0, 1.0])
    records = source.records(0)
    assert [records[row].caption for row in (0, 1)] == ["a fox", "kites, red"]
    assert [image.data for image in records[1].images] == [b"wb", b"lb"]
    assert source.name(1) == "b.jpg"


def test_liked_and_disliked_images(tmp_path):
    captions = {
        "captions.jsonl": "\n".join(
            json.dumps({"name": name, "caption": name}) for name in ("liked/a.png", "disliked/a.png")
        )
    }
    source = make(tmp_path, {"liked/a.png": b"good", "disliked/a.png": b"bad", **captions})
    assert source.images_per_row == 1
    found = {record.label: record.images[0].data for record in (source.records(0)[row] for row in (0, 1))}
    assert found == {1.0: b"good", 0.0: b"bad"}


def test_a_folder_with_one_side_says_what_lacks(tmp_path):
    captions = {"captions.csv": "name,caption\na.png,a fox\nliked/a.png,a fox\n"}
    with pytest.raises(UserError, match="has only one of w/ and l/"):
        make(tmp_path / "pairs", {"w/a.png": b"wa", **captions})
    likes = make(tmp_path / "likes", {"liked/a.png": b"good", "captions.csv": "name,caption\nliked/a.png,a fox\n"})
    assert likes.labels(0).tolist() == [1.0]


def test_what_has_no_partner_or_caption_is_broken(tmp_path):
    source = make(tmp_path, {**IMAGES, "w/c.png": b"wc", "captions.csv": "name,caption\na.png,a fox\nc.png,alone\n"})
    records = source.records(0)
    with pytest.raises(BrokenRow, match="no caption"):
        records[1]
    assert records[2].images[1].data == b""


def test_the_fingerprint_follows_names_sizes_and_captions(tmp_path):
    def fingerprint(name, **changes):
        return make(tmp_path / name, IMAGES | {"captions.csv": "name,caption\na.png,a fox\n"} | changes).fingerprint

    assert fingerprint("one") == fingerprint("two")
    assert fingerprint("three", **{"captions.csv": "name,caption\na.png,a wolf\n"}) != fingerprint("one")
    assert fingerprint("four", **{"w/a.png": b"other size"}) != fingerprint("one")


def test_a_folder_that_is_no_such_folder(tmp_path):
    assert not is_image_folder(tmp_path)
    with pytest.raises(UserError, match=r"holds no captions\. Such a folder has w/ and l/"):
        make(tmp_path, IMAGES)
    with pytest.raises(UserError, match=r"captions.csv is not understood \(KeyError 'name'\)"):
        make(tmp_path, {"captions.csv": "file,caption\na.png,x\n"})
