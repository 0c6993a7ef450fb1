"""Which pairs are kept, by their pictures' scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError
from mapolab.evaluation.scorers.scorer import Scorer

KEYS = ("minimum_score", "maximum_score", "maximum_of_either", "minimum_gap")
Limits = dict[int, float]  # by the scorer's number


@dataclass(frozen=True)
class Filters:
    """Limits by scorer; of a picture's scores, one for each of `names`.

    minimum, maximum: of the chosen picture (of both, in a tie). either: maximum of both pictures. gap: by which the
    chosen picture must be better, in the scorer's own sense. signs: -1 for a scorer for which lower is better.
    """

    names: tuple[str, ...]
    signs: tuple[int, ...]
    minimum: Limits
    maximum: Limits
    either: Limits
    gap: Limits

    @classmethod
    def from_config(cls, config: dict[str, Any], scorers: Sequence[Scorer]) -> Filters:
        """Raises UserError for a limit of a scorer that is not there."""
        signs = tuple(1 if scorer.higher_is_better else -1 for scorer in scorers)
        names = tuple(scorer.name for scorer in scorers)
        return cls(names, signs, *(_limits(key, config[key], names) for key in KEYS))

    def unfit(self, scores: Sequence[float]) -> str | None:
        """Why a picture may be on neither side; None where it may."""
        return self._above(self.either, "maximum_of_either", scores)

    def unchosen(self, scores: Sequence[float]) -> str | None:
        """Why a picture may not be the chosen one; None where it may."""
        below = next((name for name, limit in self.minimum.items() if scores[name] < limit), None)
        if below is not None:
            return f"minimum_score of {self.names[below]}"
        return self._above(self.maximum, "maximum_score", scores)

    def too_close(self, chosen: Sequence[float], rejected: Sequence[float], tie: bool) -> str | None:
        """Why two pictures are too close to each other; None where they are not. In a tie neither is better."""
        for number, limit in self.gap.items():
            gap = 0.0 if tie else self.better_by(number, chosen, rejected)
            if gap < limit:
                return f"minimum_gap of {self.names[number]}"
        return None

    def better_by(self, number: int, first: Sequence[float], second: Sequence[float]) -> float:
        """By how much the first picture is better than the second to this scorer."""
        return self.signs[number] * (first[number] - second[number])

    def _above(self, limits: Limits, key: str, scores: Sequence[float]) -> str | None:
        above = next((number for number, limit in limits.items() if scores[number] > limit), None)
        return None if above is None else f"{key} of {self.names[above]}"


def _limits(key: str, given: Any, names: Sequence[str]) -> Limits:
    """A number stands for the first scorer."""
    if given is None:
        return {}
    by_name = given if isinstance(given, dict) else {names[0] if names else "": given}
    for name, limit in by_name.items():
        if name not in names:
            there = f"There are {', '.join(names)}." if names else "There is none: name some in ranked_by or scorers."
            raise UserError(f"{key} has a limit for the scorer {name or '?'}.{did_you_mean(name, names)} {there}")
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not math.isfinite(limit):
            raise UserError(f"{key} of {name} is {limit!r}; give a number.")
    return {names.index(name): float(limit) for name, limit in by_name.items()}
