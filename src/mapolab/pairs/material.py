"""What a recipe gives: pictures to draw, and captions each with the pictures that compete for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mapolab.evaluation.models import EvaluatedModel
from mapolab.files import content_key


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a pair.

    uid: names the image, whatever pair it stands in. place: where the recipe's `read` finds its file. model: what drew
    it. prompt, seed: what it was drawn from, with prefixes; None where it was not drawn here. scope: names the data set
    that uids belong to, where another may have the same ones.
    """

    uid: str
    place: Any
    model: str | None = None
    prompt: str | None = None
    seed: int | None = None
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Contest:
    """A caption and the pictures that compete for it.

    position: the caption's place in what the recipe was given; a drawn picture's noise is a function of it and the
    seed. preference: of the first of two pictures over the second: 1, or 0.5 for a tie; None: the scorers decide.
    side: the side, 0 or 1, that the first picture keeps; None: sides alternate.
    """

    caption: str
    pictures: tuple[Picture, ...]
    position: int
    preference: float | None = 1.0
    side: int | None = None


@dataclass(frozen=True)
class Sheet:
    """Pictures that one model draws: (prompt, seed, position) of each, its key in the store, the settings of all."""

    model: EvaluatedModel
    drawings: list[tuple[str, int, int]]
    keys: list[str]
    settings: dict[str, Any]

    def picture(self, index: int) -> Picture:
        """The index-th drawing; its name is its key in the store."""
        prompt, seed, _ = self.drawings[index]
        return Picture(self.keys[index], self.keys[index], self.model.name, prompt, seed)


@dataclass(frozen=True)
class Material:
    """about: what of the recipe decides the pairs, for the manifest. read: a picture's file, encoded; raises BrokenRow
    for a data set's broken row. dropped: contests that were left out, by reason. batch_size: pictures drawn and scored
    together, where the command does not say.
    """

    about: dict[str, Any]
    contests: list[Contest]
    read: Callable[[Picture], bytes]
    sheets: list[Sheet] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    batch_size: int = 4


def score_key(picture: Picture, caption: str) -> str:
    """Where the store keeps the scores of a picture for a caption.

    A picture that is judged by what it was drawn from shares them with `mapolab evaluate`.
    """
    return picture.uid if picture.prompt == caption else content_key([picture.scope, picture.uid, caption])
