"""Votes from the picture wall of `mapolab compare`.

Its export has a JSON object a vote, in the columns of Pick-a-Pic: image_0_uid is the first half of the SHA-256 of the
picture's file, image_0_url that file's place, <run's folder>/evaluation/<hash>/images/<number>.png. Only small pictures
come along whole, as base64 in jpg_0, of the same pixels but not the same file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any

from mapolab.data.images import BrokenImage, whole_picture
from mapolab.data.records import TIE
from mapolab.errors import UserError
from mapolab.files import read_regular, sha256, short_hash
from mapolab.pairs.drawing import left_out, plain_png
from mapolab.pairs.held_out import HeldOut
from mapolab.pairs.material import Contest, Material, Picture
from mapolab.paths import find_paths
from mapolab.pictures import load_picture
from mapolab.texts import odd_character

TEXTS = ("caption", "image_0_uid", "image_0_url", "image_1_uid", "image_1_url", "model_0", "model_1")
PLACES = ("image_0_url", "image_1_url")
PICTURES = ("jpg_0", "jpg_1")
UID_LENGTH = 32
MOST_VOTES = 1 << 28  # bytes


def votes(config: dict[str, Any], held_out: HeldOut) -> Material:
    """The pairs that were voted on, with their pictures as the evaluated models drew them.

    Looks for the pictures in the folders that `models` names, in <output_root>/models, and in the file of votes itself.
    Raises UserError for a file of another form, and for pictures that are nowhere.
    """
    file = Path(config["votes"])
    rows = read_votes(file)
    kept = held_out(list(enumerate(rows)), lambda item: item[1]["caption"])
    folders = _folders(config)
    contests = []
    for place, row in kept:
        first = 1 if row["label_0"] == 0 else 0
        pictures = tuple(_picture(row, side, folders, f"{file}, line {place + 1}") for side in (first, 1 - first))
        contests.append(Contest(row["caption"], pictures, place, max(row["label_0"], 1 - row["label_0"]), first))
    uids = [picture.uid for contest in contests for picture in contest.pictures]
    about = {"votes": short_hash(rows), "count": len(rows), "pictures": short_hash(uids)}
    return Material(about, contests, _read, dropped=left_out(len(rows) - len(kept)))


def read_votes(file: Path) -> list[dict[str, Any]]:
    """The rows of an exported file. Raises UserError for any other form, naming the line."""
    try:
        lines = [line for line in read_regular(file, MOST_VOTES).decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        lines = [""]
    except OSError as error:
        raise UserError(f"votes={file} cannot be read ({error.strerror}). Give the votes.jsonl of a page.") from None
    rows = []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if reason := _fault(row):
            raise UserError(
                f"{file} is no file of votes: line {number + 1} {reason}. Give the votes.jsonl that the page of "
                "`mapolab compare` exports, unchanged."
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{file} holds no vote. Vote on the page of `mapolab compare`, and export.")
    return rows


def _fault(row: Any) -> str | None:
    """What is wrong with a line, in a few words."""
    if not isinstance(row, dict):
        return "is no JSON object"
    if missing := [key for key in (*TEXTS, "label_0") if key not in row]:
        return f"lacks {missing[0]}"
    if wrong := [key for key in TEXTS if not isinstance(row[key], str) or not row[key]]:
        return f"has no text as {wrong[0]}"
    if wrong := [key for key in TEXTS if odd_character(row[key])]:
        return f"has the character {odd_character(row[wrong[0]])} in {wrong[0]}"
    if wrong := [key for key in PLACES if len(Path(row[key]).parts) < 2]:
        return f"has no picture of a model's folder as {wrong[0]}"
    if wrong := [key for key in PICTURES if not isinstance(row.get(key), str | None)]:
        return f"has neither base64 nor null as {wrong[0]}"
    if type(row["label_0"]) not in (int, float) or row["label_0"] not in (0, TIE, 1):
        return f"has label_0 {row['label_0']!r}, which is none of 0, 0.5 and 1"
    return None


def _folders(config: dict[str, Any]) -> list[Path]:
    """Where evaluated models may lie: what `models` names, and where models that are no runs are put."""
    named = config["models"] or []
    patterns = [named] if isinstance(named, str) else [entry for entry in named if isinstance(entry, str)]
    found = [path for pattern in patterns for path in find_paths(pattern)]
    return [*found, *sorted((Path(config["output_root"]) / "models").glob("*"))]


def _picture(row: dict[str, Any], side: int, folders: list[Path], where: str) -> Picture:
    uid, place = row[f"image_{side}_uid"], Path(row[f"image_{side}_url"])
    model = row[f"model_{side}"]
    for folder in folders:
        file = folder.joinpath(*place.parts[1:])
        inside = file.resolve().is_relative_to(folder.resolve())  # the file of votes is data from elsewhere
        if folder.resolve().name == place.parts[0] and inside and file.is_file() and _uid(file) == uid:
            return Picture(uid, file, model)
    if data := _embedded(row.get(f"jpg_{side}")):
        return Picture(_name(data), data, model)
    raise UserError(
        f"{where}: the picture {place} is neither in the file itself nor in a folder that is known here, or not as it "
        f"was voted on. Name the folder of the evaluated model: models=[<...>/{place.parts[0]}]."
    )


def _embedded(text: str | None) -> bytes | None:
    """The bytes of a whole picture; None where there is none."""
    try:
        data = base64.b64decode(text or "", validate=True)
        whole_picture(data)
    except (binascii.Error, ValueError, BrokenImage):
        return None
    return data


def _uid(file: Path) -> str:
    return sha256(file)[:UID_LENGTH]


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:UID_LENGTH]


def _read(picture: Picture) -> bytes:
    if isinstance(picture.place, bytes):
        return picture.place
    return plain_png(load_picture(picture.place, "Give its `mapolab evaluate` command again, which draws it again."))
