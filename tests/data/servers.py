"""A web server for files, with byte ranges, directory pages and faults on demand; and one that speaks like the hub."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Server(ThreadingHTTPServer):
    """Serves `root`. faults: what becomes of the next requests for file content: `503`, `cut` (the body ends in its
    middle) or `dead` (for good). sent: bytes of file content sent so far."""

    def __init__(self, root: Path, handler: type[BaseHTTPRequestHandler]):
        super().__init__(("127.0.0.1", 0), handler)
        self.root, self.faults, self.sent = root, [], 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Readers hang up as they please."""


class Files(BaseHTTPRequestHandler):
    """Directory pages and files."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.server.root / unquote(self.path.split("?")[0]).strip("/")
        if path.is_dir():
            links = "".join(f'<a href="{item.name}{"/" * item.is_dir()}">x</a>' for item in sorted(path.iterdir()))
            self.answer(200, links.encode(), {"Content-Type": "text/html"})
        elif path.is_file():
            self.send_file(path)
        else:
            self.answer(404, b"")

    def send_file(self, path: Path, headers: dict[str, str] | None = None) -> None:
        data, headers = (
            path.read_bytes(),
            {"Accept-Ranges": "bytes", "ETag": f'"{path.stat().st_size}"', **(headers or {})},
        )
        if self.command == "HEAD":
            return self.answer(200, data, headers)
        fault = self.server.faults[0] if self.server.faults else None
        if fault and fault != "dead":
            self.server.faults.pop(0)
        if fault == "dead":
            self.close_connection = True
            return
        if fault == "503":
            return self.answer(503, b"")
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            data, status = data[start:end], 206
        self.server.sent += len(data)
        self.answer(status, data, headers, cut=fault == "cut")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None:
        pass


class Hub(Files):
    """As much of the hub's HTTP interface as reading a data set at a commit uses; `root/<owner>/<name>` is its data."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(\w+))?", path):
            self.json({"id": found[1], "sha": self.COMMIT, "siblings": []} if self.known(found[1], found[2]) else None)
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/(\w+)(?:/(.*))?", path):
            folder = self.server.root / found[1]
            items = sorted((folder / (found[3] or "")).rglob("*"))
            self.json([self.entry(folder, item) for item in items] if self.known(found[1], found[2]) else None)
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/(\w+)/(.*)", path):
            self.send_file(self.server.root / found[1] / found[3], {"X-Repo-Commit": self.COMMIT})
        else:
            self.answer(404, b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        wanted = json.loads(self.rfile.read(length))["paths"] if length else []
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/(\w+)", unquote(self.path))
        folder = self.server.root / found[1]
        self.json([self.entry(folder, folder / path) for path in wanted if (folder / path).exists()])

    def known(self, name: str, revision: str | None) -> bool:
        return (self.server.root / name).is_dir() and revision in (None, "main", self.COMMIT)

    def entry(self, folder: Path, item: Path) -> dict:
        path = item.relative_to(folder).as_posix()
        if item.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
        return {"type": "file", "oid": f"{item.stat().st_size:040d}", "size": item.stat().st_size, "path": path}

    def json(self, value: object) -> None:
        if value is None:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


@contextmanager
def running(root: Path, handler: type[BaseHTTPRequestHandler] = Files) -> Iterator[Server]:
    """A server on a free port, until the block ends."""
    server = Server(root, handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
