"""Damage to files, and values that nobody means: each a function of a random number generator, so that a seed repeats
it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

# What may stand in the place of any value of a config or a saved file.
VALUES: list[Any] = [
    None, True, False, -1, 0, 7, 10**30, 1.5, -0.0, float("nan"), float("inf"), "", " ", "x" * 300, "é\u202e\x1b[31m",
    "../../outside", "/etc/passwd", "${oc.env:SECRET}", "[v2]", "[/]", "$\\foo$", "<script>alert(1)</script>", "=1+1",
    "nan", [], [None], [[[]]], {}, {"a": {"b": 1}}, {"_target_": "os.system"}, [1, "a"], "2024-01-01", "a\nb", "\ud800",
]  # fmt: skip
# YAML whose last line stands for 2^25 words.
BOMB = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (i, i, i - 1, i - 1) for i in range(98, 122))


def mutate_text(content: bytes, chance: Random) -> bytes:
    """Bytes of a text file, damaged without regard to what they say, but so that it is seen: no digit is exchanged."""
    at = chance.randrange(len(content) + 1)
    return chance.choice([
        lambda: content[:at],
        lambda: b"",
        lambda: content[:at] + b"\xff\xfe\x80" + content[at:],
        lambda: b"\x00" * chance.randrange(1, 4096),
        lambda: content[:at] + b"\x00" + content[at:],
        lambda: content + b"}",
        lambda: content.replace(b":", b"", 1).replace(b",", b"", 1),
        lambda: b"[" * 100_000,
        lambda: b"&a [*a, *a]\n",
        lambda: BOMB,
        lambda: b"!!python/object/apply:os.system ['true']\n",
        lambda: b'{"a": 1e999, "b": NaN}',
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    ])()  # fmt: skip


def mutate_values(content: bytes, chance: Random, suffix: str) -> bytes:
    """A JSON, YAML or CSV file in which one value is another, or is missing."""
    if suffix == ".csv":
        return _mutate_table(content, chance)
    tree = json.loads(content) if suffix == ".json" else yaml.safe_load(content)
    places = list(_places(tree))
    holder, key = chance.choice(places)
    if chance.random() < 0.3:
        del holder[key]
    else:
        holder[key] = chance.choice(VALUES)
    if suffix == ".json":
        return json.dumps(tree).encode(errors="surrogatepass")
    return yaml.dump(tree, allow_unicode=True).encode(errors="surrogatepass")


def mutate_binary(content: bytes, chance: Random) -> bytes:
    """Bytes of a file that is no text: a flipped bit, a cut, a page of zeros, two pages exchanged."""
    data, at = bytearray(content), chance.randrange(len(content))
    kind = chance.randrange(5)
    if kind == 0:
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        end = min(at + 64, len(data))
        data[at:end] = bytes(end - at)
    elif kind == 3:
        half = len(data) // 2
        data = data[half:] + data[:half]
    else:
        data += b"more"
    return bytes(data)


def damage(file: Path, chance: Random) -> str:
    """Damage a file in place, or take it away; returns how, for a message."""
    content, text = file.read_bytes(), file.suffix in (".json", ".yaml", ".csv", ".txt")
    if chance.random() < 0.08:
        file.unlink()
        return "removed"
    if chance.random() < 0.04:
        file.unlink()
        file.mkdir()
        return "a folder in its place"
    how: Callable[[], bytes]
    if not text:
        name, how = "bytes", lambda: mutate_binary(content, chance)
    elif file.suffix != ".txt" and content and chance.random() < 0.6:
        name, how = "a value", lambda: mutate_values(content, chance, file.suffix)
    else:
        name, how = "text", lambda: mutate_text(content, chance)
    damaged = how()
    file.unlink()  # it may be a name of another file's content
    file.write_bytes(damaged)
    return f"{name}: {damaged[:400]!r}"


def _places(tree: Any) -> Any:
    """(holder, key) of every value at any depth."""
    keys = range(len(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else ()
    for key in list(keys):
        yield tree, key
        yield from _places(tree[key])


def _mutate_table(content: bytes, chance: Random) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode())))
    row = chance.randrange(len(rows))
    cell = chance.randrange(len(rows[row])) if rows[row] else 0
    kind = chance.randrange(5)
    if kind == 0:
        del rows[row]
    elif kind == 1:
        rows[row].append("7")
    elif kind == 2:
        del rows[row][cell:]
    elif kind == 3:
        rows[row][cell] = str(chance.choice(VALUES))
    else:
        rows.insert(row, rows[row])
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue().encode(errors="surrogatepass")
