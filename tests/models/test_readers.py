"""Files of weights as anyone may have written them: none is executed, none asks for memory, each is refused by name."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from mapolab.errors import UserError
from mapolab.models.readers import SETTINGS_BYTES, opened, read_checkpoint, read_settings, read_whole

GOOD = {"a.weight": torch.ones(2, 3), "count": torch.tensor(3)}


class Evil:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def saved(content: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def compressed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member.filename))
    return buffer.getvalue()


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as raised:
        read_checkpoint("the judge", file)
    assert str(file) in str(raised.value) and str(raised.value).isprintable() and len(str(raised.value)) < 1000
    return str(raised.value)


@pytest.mark.parametrize("content", [GOOD, {"state_dict": GOOD, "epoch": 3}], ids=["alone", "beside other data"])
@pytest.mark.parametrize("zipped", [True, False])
def test_the_tensors_of_a_state_dict(tmp_path, content, zipped):
    (tmp_path / "a.pt").write_bytes(saved(content, _use_new_zipfile_serialization=zipped))
    found = read_checkpoint("the judge", tmp_path / "a.pt")
    assert found.keys() == GOOD.keys() and all(torch.equal(found[name], GOOD[name]) for name in GOOD)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.ckpt", "a.safetensors"])
def test_no_pickle_is_executed(tmp_path, reliability, name):
    marker = tmp_path / "executed"
    evil = Evil(marker)
    forms = [saved(evil), saved({"x": evil}), saved({"state_dict": evil}), saved({"state_dict": GOOD, "epoch": evil})]
    forms += [saved({"x": evil}, _use_new_zipfile_serialization=False)]
    forms += [pickle.dumps(evil, protocol) for protocol in range(6)]
    for form in forms:
        (tmp_path / name).write_bytes(form)
        refusal(tmp_path / name)
        assert not marker.exists()
    if name == "a.pth":
        reliability(
            "A file of weights that is a program (`.pth`, `.pt`, `.bin`, `.ckpt`, or a false `.safetensors`)",
            "refused by name, nothing of it runs",
            f"{len(forms)} forms of it were refused, and its program did not run",
        )


def test_classes_that_other_packages_allow_are_not_made(tmp_path):
    """torch.load(weights_only=True) makes those that torchao, Lightning or anything else has registered."""
    (tmp_path / "a.pt").write_bytes(saved({"x": torch.ones(2), "y": Evil(tmp_path)}))
    with torch.serialization.safe_globals([Evil, open]):
        before = torch.serialization.get_safe_globals()
        assert "holds more than tensors" in refusal(tmp_path / "a.pt")
        assert set(torch.serialization.get_safe_globals()) == set(before)


STRANGE: dict[str, Callable[[], Any]] = {
    "a model": lambda: torch.nn.Linear(2, 2),
    "a list": lambda: [1, 2],
    "nothing": lambda: None,
    "no tensors": dict,
    "a number as a name": lambda: GOOD | {3: torch.ones(1)},
    "a long name": lambda: GOOD | {"a" * 1_000_000: torch.ones(1)},
    "a name that moves the cursor": lambda: GOOD | {"a\x1b[2K": torch.ones(1)},
    "a number as a tensor": lambda: GOOD | {"x": 3},
    "one number without end": lambda: GOOD | {"x": torch.ones(1).expand(10**12)},
    "no numbers": lambda: GOOD | {"x": torch.empty(10**12, device="meta")},
    "sparse": lambda: GOOD | {"x": torch.eye(3).to_sparse()},
}


@pytest.mark.parametrize("kind", STRANGE)
def test_only_plain_tensors_are_taken(tmp_path, kind):
    (tmp_path / "a.pt").write_bytes(saved(STRANGE[kind]()))
    assert "cannot be read" in refusal(tmp_path / "a.pt")


def test_a_file_that_grows_without_end(tmp_path, reliability):
    bomb = compressed(saved({"x": torch.zeros(30_000_000)}))
    (tmp_path / "a.pt").write_bytes(bomb)
    assert "it is compressed" in refusal(tmp_path / "a.pt")
    reliability(
        f"A compressed file of weights, {len(bomb) >> 10} KB of 120 MB",
        "refused before it is unpacked",
        "refused by name",
    )


@pytest.mark.parametrize("content", [b"", b"<html>" * 50, saved(GOOD)[:-300], saved(GOOD)[:40]])
def test_what_is_no_file_of_weights(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    refusal(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "`git lfs pull`" in refusal(tmp_path / "b.pt")


def header(entries: dict | bytes, length: int | None = None, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS = {
    "a length beyond the file": header({"a": ONE}, 2**62),
    "a length of nothing": header({"a": ONE}, 0),
    "offsets beyond the file": header({"a": ONE | {"data_offsets": [0, 2**60]}}, data=b"1234"),
    "offsets that overlap": header({"a": ONE, "b": ONE}, data=b"1234"),
    "a shape beyond its bytes": header({"a": ONE | {"shape": [2**40, 2**40]}}, data=b"1234"),
    "an unknown kind of number": header({"a": ONE | {"dtype": "X9"}}, data=b"1234"),
    "depth": header(b'{"a":' * 100_000),
    "metadata that are no texts": header({"__metadata__": {"x": {"y": 1}}, "a": ONE}, data=b"1234"),
    "a long name": header({"a" * 1_000_000: ONE}, data=b"1234"),
    "a name that moves the cursor": header({"a\x1b[2K": ONE}, data=b"1234"),
    "a name of two lines": header({"a\nb": ONE}, data=b"1234"),
    "no name": header({"": ONE}, data=b"1234"),
    "names without end": header({f"t{n}": ONE | {"shape": [0], "data_offsets": [0, 0]} for n in range(200_000)}),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_lie(tmp_path, kind):
    file = tmp_path / "a.safetensors"
    file.write_bytes(HEADERS[kind])
    for read in (lambda: read_whole(file, "The LoRA"), lambda: opened(file).__enter__()):
        with pytest.raises(UserError) as raised:
            read()
        assert "is no sound safetensors file" in str(raised.value) and len(str(raised.value)) < 700
        assert str(raised.value).isprintable()


def test_what_is_no_file_is_not_opened(tmp_path):
    """A pipe would be waited for, a device read without end."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "device.safetensors").symlink_to("/dev/zero")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "circle.safetensors").symlink_to(tmp_path / "circle.safetensors")
    for file in tmp_path.iterdir():
        with pytest.raises(UserError, match="does not exist"):
            read_whole(file, "The LoRA")


def test_a_link_to_a_file_elsewhere_is_read_as_the_hubs_cache_has_it(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "blob")
    (tmp_path / "a.safetensors").symlink_to("blob")
    assert read_whole(tmp_path / "a.safetensors", "")[0]["a"].tolist() == [1, 1]
    assert save({"a": torch.ones(2)}) == (tmp_path / "blob").read_bytes()


SETTINGS = [b"", b"[]", b"3", b"{", b"\xff", b"[" * 1_000_000, b'{"a":' * 500_000, b'{"a": ' + b"9" * 10_000 + b"}"]


@pytest.mark.parametrize("content", [*SETTINGS, b" " * (SETTINGS_BYTES + 1) + b"{}"], ids=lambda content: content[:6])
def test_settings_that_are_none(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json is no sound JSON .*Fetch it again") as raised:
        read_settings(tmp_path / "config.json")
    assert len(str(raised.value)) < 600
