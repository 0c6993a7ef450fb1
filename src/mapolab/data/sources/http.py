"""File systems behind URLs; those of web servers with answers that are bounded, whatever a server sends."""

import re
from functools import lru_cache
from typing import Any

import fsspec

from mapolab.errors import UserError

MOST_PAGE = 1 << 26  # bytes of an answer that no range was asked of: a page that lists files


def filesystem_of(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path therein. Raises ImportError or ValueError for URLs that it cannot open."""
    # fsspec keeps one instance a process and thread, so this is safe after a fork.
    return fsspec.core.url_to_fs(url, **(_bounded() if url.startswith(("http://", "https://")) else {}))


@lru_cache
def _bounded() -> dict[str, Any]:
    import aiohttp

    class BoundedResponse(aiohttp.ClientResponse):
        """Reads no more than was asked for, and nothing that would have to be unpacked."""

        async def read(self) -> bytes:
            if self._body is None:
                most, encoding = _asked(self.request_info.headers), self.headers.get("Content-Encoding", "identity")
                if encoding.lower() not in ("identity", ""):
                    raise self._refusal(f"a file in the encoding {encoding[:20]}, though none was asked for")
                body = bytearray()
                async for part in self.content.iter_any():
                    body += part
                    if len(body) > most:
                        raise self._refusal(f"more than the {most:,} bytes that were asked for")
                self._body = bytes(body)
            return self._body

        def _refusal(self, what: str) -> UserError:
            self.close()
            return UserError(
                f"{self.url.with_query(None)} answers with {what}. Use a server that answers to byte ranges, or "
                "download the data and name its folder as data.path."
            )

    client = {"response_class": BoundedResponse, "auto_decompress": False}
    return {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}}


def _asked(headers: Any) -> int:
    """How many bytes a request asked for."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", ""))
    return int(wanted[2]) - int(wanted[1]) + 1 if wanted else MOST_PAGE
