"""From contests and scores to the pairs that are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mapolab.data.records import TIE
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.store import Store
from mapolab.pairs.filters import Filters
from mapolab.pairs.material import Contest, Picture, score_key
from mapolab.pairs.ranking import best_against_worst, every_pair, gap_weights, soft_label


@dataclass(frozen=True, slots=True)
class Pair:
    """label: preference for the chosen picture, 0.5..1; below 0.5 where a soft label contradicts the recipe.

    ..._scores: one a scorer, as the scorer gave them. side: where the chosen picture stands, 0 or 1; None: sides
    alternate. position: of the contest.
    """

    caption: str
    chosen: Picture
    rejected: Picture
    chosen_scores: tuple[float, ...]
    rejected_scores: tuple[float, ...]
    label: float
    side: int | None
    position: int
    weight: float = 1.0


class Judge:
    """Makes pairs of contests. rankers: how many of the scorers, from the first, say which picture is better.

    dropped counts what is left out, by reason; totals are the sums of all pictures' scores, and seen how many they are.
    """

    def __init__(
        self, config: dict[str, Any], scorers: Sequence[Scorer], rankers: int, filters: Filters, store: Store
    ) -> None:
        self.scorers, self.rankers, self.filters, self.store = scorers, rankers, filters, store
        self.all_pairs = config["pairing"] == "all"
        self.soft_scale = config["label_scale"] if config["labels"] == "soft" else None
        self.by_gap = config["weights"] == "gap"
        self.dropped: Counter[str] = Counter()
        self.totals, self.seen = [0.0] * len(scorers), 0

    def pairs(self, contests: Sequence[Contest]) -> list[Pair]:
        """The pairs that are kept, in the order of the contests, weighted."""
        kept = [pair for contest in contests for pair in self._pairs_of(contest)]
        if not self.by_gap:
            return kept
        gaps = [self.filters.better_by(0, pair.chosen_scores, pair.rejected_scores) for pair in kept]
        return [replace(pair, weight=weight) for pair, weight in zip(kept, gap_weights(gaps), strict=True)]

    def _pairs_of(self, contest: Contest) -> Iterator[Pair]:
        scores = [self._scores(picture, contest.caption) for picture in contest.pictures]
        if any(values is None for values in scores):
            self.dropped["broken image"] += 1
            return
        self.totals = [
            total + sum(values) for total, values in zip(self.totals, zip(*scores, strict=True), strict=True)
        ]
        self.seen += len(scores)
        fit = [index for index, values in enumerate(scores) if self.filters.unfit(values) is None]
        if len(fit) < 2:
            self.dropped[next(reason for values in scores if (reason := self.filters.unfit(values)))] += 1
            return
        for first, second, preference in self._compare(contest, [scores[index] for index in fit]):
            one, other = fit[first], fit[second]
            pair = self._pair(contest, one, other, scores[one], scores[other], preference)
            reason = self._reason(pair, preference == TIE)
            if reason:
                self.dropped[reason] += 1
            else:
                yield pair

    def _scores(self, picture: Picture, caption: str) -> tuple[float, ...] | None:
        """None where a picture could not be scored: it is broken."""
        if not self.scorers:
            return ()
        kept = self.store.scores(score_key(picture, caption))
        found = tuple(kept.get(scorer.fingerprint) for scorer in self.scorers)
        return None if None in found else found

    def _compare(self, contest: Contest, scores: list[tuple[float, ...]]) -> list[tuple[int, int, float]]:
        if contest.preference is not None:
            return [(0, 1, contest.preference)]
        signs = self.filters.signs[: self.rankers]
        better = [[sign * value for sign, value in zip(signs, values, strict=False)] for values in scores]
        return every_pair(better) if self.all_pairs else [best_against_worst(better)]

    def _pair(
        self, contest: Contest, one: int, other: int, first: tuple[float, ...], second: tuple[float, ...], label: float
    ) -> Pair:
        if self.soft_scale is not None:
            label = soft_label(self.filters.better_by(0, first, second), self.soft_scale)
        side = contest.side if contest.side is None or one == 0 else 1 - contest.side
        chosen, rejected = contest.pictures[one], contest.pictures[other]
        return Pair(contest.caption, chosen, rejected, first, second, label, side, contest.position)

    def _reason(self, pair: Pair, tie: bool) -> str | None:
        """Why a pair is left out."""
        reason = self.filters.unchosen(pair.chosen_scores)
        if tie and reason is None:
            reason = self.filters.unchosen(pair.rejected_scores)
        return reason or self.filters.too_close(pair.chosen_scores, pair.rejected_scores, tie)
