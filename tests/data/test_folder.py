import json
import os

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


@pytest.mark.parametrize("name", ["w/c.png", "captions.csv", "w/a.txt"])
def test_no_link_out_of_the_folder_is_followed(tmp_path, name, reliability):
    """A picture or a text of this machine must not come into a training by what somebody else packed."""
    (tmp_path / "secret").write_bytes(b"secret")
    captions = {"w/b.txt": "rain"} if name == "w/a.txt" else {"captions.csv": "name,caption\na.png,a fox\n"}
    make(tmp_path / "data", IMAGES | captions)
    (tmp_path / "data" / name).unlink(missing_ok=True)
    (tmp_path / "data" / name).symlink_to("../../secret" if "/" in name else "../secret")
    with pytest.raises(UserError, match=rf"{name} is a link out of the data set's folder, to {tmp_path}/secret"):
        make(tmp_path / "data", {})
    reliability(f"A data set whose {name} is a link to a file elsewhere", "refused", "named, with what it links to")


def test_links_within_the_data_and_of_the_hubs_cache_are_followed(tmp_path):
    repository = tmp_path / "datasets--owner--name"
    snapshot = repository / "snapshots" / "0123"
    make(snapshot, IMAGES | {"captions.csv": "name,caption\na.png,a fox\n../../secret.png,a secret\n"})
    (repository / "blobs").mkdir()
    (snapshot / "w" / "a.png").rename(repository / "blobs" / "abcd")
    (snapshot / "w" / "a.png").symlink_to("../../../blobs/abcd")
    (snapshot / "l" / "b.jpg").unlink()
    (snapshot / "l" / "b.jpg").symlink_to("a.png")
    source = make(snapshot, {})
    assert source.rows == ["a.png", "b.jpg"]  # the name that climbs is nobody's
    assert [image.data for image in source.records(0)[0].images] == [b"wa", b"la"]


def test_a_pipe_is_not_waited_for(tmp_path):
    captions = {"captions.csv": "name,caption\na.png,a fox\n"}
    make(tmp_path, IMAGES | captions)
    os.mkfifo(tmp_path / "w" / "c.png")
    with pytest.raises(UserError, match=r"w/c.png is no regular file"):
        make(tmp_path, {})


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        ({"captions.csv": b"name,caption\na.png,caf\xe9\n"}, "captions.csv is not understood .UnicodeDecodeError"),
        ({"captions.csv": f"name,caption\na.png,{'x' * 200_000}\n"}, "field larger than field limit"),
        ({"captions.csv": "name,caption\na.png,a fox\na.png,rain\n"}, r"has two captions for a\.png"),
        ({"captions.jsonl": "[" * 100_000}, "RecursionError"),
        ({"captions.jsonl": '{"name": "a.png", "caption": ["a fox"]}'}, r"'a\.png' or its caption is no text"),
        ({"captions.jsonl": '["a.png", "a fox"]'}, "TypeError"),
        ({"w/a.txt": b"\xff\xfe"}, r"w/a\.txt is not understood"),
    ],
)
def test_captions_that_are_not_understood_are_named(tmp_path, captions, said):
    with pytest.raises(UserError, match=said):
        make(tmp_path, IMAGES | captions)


def test_a_long_caption_is_none(tmp_path):
    source = make(tmp_path, IMAGES | {"w/a.txt": "a fox", "w/b.txt": "x" * 1_000_000})
    assert [text.caption for text in source.texts(0)] == ["a fox", None]
