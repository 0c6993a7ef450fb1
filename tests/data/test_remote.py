"""Data behind a web server: patience, the cache on the local disk, and a stand-in for the hub."""

import gzip
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from mapolab.data.datamodule import _used
from mapolab.data.datasets import PixelPairs
from mapolab.data.draw import Draw
from mapolab.data.order import MicroSteps, Selection, WindowOrder
from mapolab.data.sources import http, remote
from mapolab.data.sources.open import open_source
from mapolab.data.sources.remote import DataFile, RangeCache, open_remote, with_retries
from mapolab.errors import RunError, UserError

spec = importlib.util.spec_from_file_location("servers", Path(__file__).with_name("servers.py"))
servers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(servers)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """The same attempts, with short waits; and pieces small enough for several to make a file."""
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.02, 0.04))
    monkeypatch.setattr(remote, "PIECE", 1000)
    monkeypatch.setattr(remote, "LARGEST_READ", 3000)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file.bin").write_bytes(DATA)
    with servers.running(tmp_path / "www") as running:
        yield running


DATA = np.random.default_rng(0).integers(0, 256, 9500, dtype=np.uint8).tobytes()


def file_of(server) -> DataFile:
    return DataFile("file.bin", f"{server.url}/file.bin", len(DATA), "v1")


def read(server, cache, start=0, size=-1) -> bytes:
    opened = open_remote(file_of(server), cache)
    opened.seek(start)
    return opened.read(size)


def test_ranges_are_read_as_from_a_file(server, tmp_path):
    for cache in (None, RangeCache(tmp_path / "cache", 10**6)):
        assert read(server, cache) == DATA
        for start, size in ((0, 1), (999, 2), (1000, 1000), (3500, 4000), (9400, 500), (9500, 10)):
            assert read(server, cache, start, size) == DATA[start : start + size]


def test_what_was_fetched_is_not_fetched_again(server, tmp_path):
    cache = RangeCache(tmp_path / "cache", 10**6)
    read(server, cache, 1500, 1000)
    assert server.sent == 2000
    assert read(server, RangeCache(tmp_path / "cache", 10**6), 1200, 1500) == DATA[1200:2700]
    assert server.sent == 2000
    next((tmp_path / "cache").glob("*/*")).write_bytes(b"cut off")  # such a piece is fetched again
    assert read(server, cache, 1500, 1000) == DATA[1500:2500]
    assert server.sent == 3000


def test_failures_are_met_with_patience(server, tmp_path):
    server.faults = ["503", "cut", "503"]
    assert read(server, None) == DATA
    assert server.faults == []


def test_a_dead_remote_is_an_error_and_keeps_what_had_arrived(server, tmp_path):
    cache = RangeCache(tmp_path / "cache", 10**6)
    read(server, cache, 0, 6000)
    server.faults = ["dead"]
    with pytest.raises(
        RunError, match=r"does not answer: .* after 4 attempts\. Once it does, the same command continues"
    ):
        read(server, cache)
    server.faults, server.sent = [], 0
    assert read(server, cache) == DATA
    assert server.sent == 3500


def test_what_is_not_there_is_not_asked_for_again(server):
    attempts = []
    with pytest.raises(FileNotFoundError):
        with_retries(lambda: attempts.append(1) or remote._read(f"{server.url}/nothing", 0, 10), "nothing")
    assert len(attempts) == 1


def test_the_cache_stays_within_its_limit(server, tmp_path):
    cache = RangeCache(tmp_path / "cache", 4000)
    for start in range(0, 9000, 1000):
        read(server, cache, start, 1000)
    pieces = list((tmp_path / "cache").glob("*/*"))
    assert sum(piece.stat().st_size for piece in pieces) <= 4400
    server.sent = 0
    read(server, cache, 8000, 1000)  # the newest one is still there
    assert server.sent == 0


def test_a_damaged_piece_is_fetched_again(server, tmp_path):
    cache = RangeCache(tmp_path / "cache", 10**6)
    read(server, cache)
    for number, piece in enumerate(sorted((tmp_path / "cache").glob("*/*"))):
        data = bytearray(piece.read_bytes())
        data[number * 17] ^= 1
        piece.write_bytes(data if number % 2 else data[:-4])  # an earlier version's had no checksum
    server.sent = 0
    assert read(server, cache) == DATA and server.sent == len(DATA)


class Hostile(servers.Files):
    """Answers to requests for a file's content with `faults`: endless, endless and packed, or elsewhere."""

    def send_file(self, path, headers=None) -> None:
        if self.command == "HEAD" or not self.server.faults:
            return super().send_file(path, headers)
        kind = self.server.faults[0]
        if kind.startswith(("file:", "http:")):
            return self.answer(302, b"", {"Location": kind})
        self.send_response(206)
        self.send_header("Transfer-Encoding", "chunked")
        if kind == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        block = gzip.compress(bytes(1 << 20)) if kind == "gzip" else bytes(1 << 16)
        while True:  # until the reader hangs up
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.server.sent += len(block)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("endless", "answers with more than the 9,500 bytes that were asked for. Use a server"),
        ("gzip", "answers with a file in the encoding gzip, though none was asked for"),
        ("file:///etc/hostname", "does not answer: NonHttpUrlRedirectClientError"),
    ],
)
def test_a_server_is_taken_no_more_of_than_was_asked_for(tmp_path, answer, said, reliability):
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file.bin").write_bytes(DATA)
    with servers.running(tmp_path / "www", Hostile) as server:
        assert read(server, None) == DATA
        server.sent, server.faults = 0, [answer]
        with pytest.raises((UserError, RunError), match=said):
            read(server, None)
    assert server.sent < 50e6
    reliability(f"A web server that answers to a byte range with: {answer}", "refused", f"'{said[:60]}'")


def test_no_password_follows_to_another_server(tmp_path):
    seen = []

    class Other(servers.Files):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            super().do_GET()

    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file.bin").write_bytes(DATA)
    with servers.running(tmp_path / "www", Other) as other, servers.running(tmp_path / "www", Hostile) as server:
        server.faults = [f"{other.url}/file.bin".replace("127.0.0.1", "localhost")]
        url = f"{server.url}/file.bin".replace("//", "//user:secret@")
        assert open_remote(DataFile("file.bin", url, len(DATA), "v1"), None).read() == DATA
    assert seen == [None]


def test_an_endless_page_of_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(http, "MOST_PAGE", 10_000)
    (tmp_path / "www").mkdir()
    for number in range(1000):
        (tmp_path / "www" / f"{number}.parquet").touch()
    with servers.running(tmp_path / "www") as server, pytest.raises(UserError, match="more than the 10,000 bytes"):
        open_source(server.url, None, None, tmp_path / "cache", 1)


def _read_in_child(url: str, folder: str, results) -> None:
    opened = open_remote(DataFile("file.bin", url, len(DATA), "v1"), RangeCache(Path(folder), 10**6))
    results.put(opened.read() == DATA)


def test_forked_processes_read_at_once(server, tmp_path):
    read(server, None, 0, 100)  # the parent's connections are open
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (f"{server.url}/file.bin", str(tmp_path / "cache"), results)
    children = [context.Process(target=_read_in_child, args=arguments) for _ in range(3)]
    for child in children:
        child.start()
    assert [results.get(timeout=60) for _ in children] == [True] * 3
    for child in children:
        child.join(timeout=60)
    assert not list((tmp_path / "cache").glob("*/.*"))


@pytest.fixture
def pairs(make_pairs):
    return pa.Table.from_pylist(make_pairs(30))


def labels(source) -> list[float]:
    return np.concatenate([source.labels(block) for block in range(len(source.block_sizes))]).tolist()


def test_a_data_set_behind_a_web_server(server, pairs, tmp_path):
    (tmp_path / "www" / "pickapic").mkdir()
    for number in (0, 1):
        name = f"train-{number:05d}-of-00002.parquet"
        parquet.write_table(pairs, tmp_path / "www" / "pickapic" / name, row_group_size=10)
    here = open_source(str(tmp_path / "www" / "pickapic"), "train", None, tmp_path / "a", 1)
    there = open_source(f"{server.url}/pickapic/", "train", None, tmp_path / "b", 1)
    assert there.fingerprint == here.fingerprint
    assert labels(there) == labels(here)
    assert there.texts(3) == here.texts(3)
    assert there.records(5)[0] == here.records(5)[0]
    server.sent = 0
    again = open_source(f"{server.url}/pickapic/", "train", None, tmp_path / "b", 1)
    assert again.records(5)[0] == here.records(5)[0]
    assert server.sent == 0  # neither the index nor the block was fetched again
    server.faults = ["dead"]
    with pytest.raises(RunError, match="does not answer"):
        again.records(0)


def test_the_next_window_is_fetched_while_this_one_is_used(server, pairs, tmp_path):
    parquet.write_table(pairs, tmp_path / "www" / "pairs.parquet", row_group_size=10)
    source = open_source(f"{server.url}/pairs.parquet", None, None, tmp_path / "cache", 1)
    order = WindowOrder(0, source.block_sizes, 10, partial(_used, source, Selection()))
    dataset = PixelPairs(source, order, Selection(), Draw(0), False, 16)
    steps = iter(MicroSteps(order, 0, 0, 100, batch_size=5))
    assert "failure" not in dataset.__getitems__(next(steps))
    for thread in threading.enumerate():
        if thread.name == "fetch ahead":
            thread.join(timeout=60)
    server.faults = ["dead"]
    first, second = order.blocks(0), order.blocks(order.next_window(0))
    assert len(source.records(second[0])) > 0
    beyond = [block for block in range(4) if block not in first + second]
    with pytest.raises(RunError, match="does not answer"):
        [source.records(block) for block in beyond]


def test_a_data_set_on_the_hub(pairs, tmp_path):
    """The hub's own client, in a process of its own: it reads the hub's address when it is imported."""
    folder = tmp_path / "hub" / "someone" / "pairs" / "data"
    folder.mkdir(parents=True)
    parquet.write_table(pairs, folder / "train-00000-of-00001-0123456789abcdef.parquet", row_group_size=10)
    code = (
        "import sys\nfrom pathlib import Path\nfrom mapolab.data.sources.open import open_source\n"
        "from mapolab.data.sources import remote\nfrom mapolab.errors import UserError\nremote.WAITS = (0.01,)\n"
        "try:\n    source = open_source(sys.argv[1], 'train', sys.argv[2], Path(sys.argv[3]), 1)\n"
        "    print(source.fingerprint, source.block_sizes, source.records(1)[2].caption)\n"
        "except UserError as error:\n    print('UserError', error)\n"
    )
    here = open_source(str(tmp_path / "hub"), "train", None, tmp_path / "here", 1)
    with servers.running(tmp_path / "hub", servers.Hub) as server:
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
        environment.pop("HF_HUB_OFFLINE", None)

        def ask(name: str, revision: str = servers.Hub.COMMIT) -> str:
            command = [sys.executable, "-c", code, name, revision, str(tmp_path / "there")]
            process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
            assert process.returncode == 0, process.stderr
            return process.stdout.strip()

        assert ask("someone/pairs") == f"{here.fingerprint} (10, 10, 10, 1) {here.records(1)[2].caption}"
        assert "UserError data.path=someone/else is not there" in ask("someone/else")


def test_a_url_of_an_unknown_kind_or_without_its_package(tmp_path):
    with pytest.raises(UserError, match="Protocol not known"):
        open_source("nothing://here", None, None, tmp_path, 1)
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(UserError, match="s3fs"):
            open_source("s3://bucket/folder", None, None, tmp_path, 1)
