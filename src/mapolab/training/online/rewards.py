"""From pictures to rewards: the scorers of the evaluation, weighted."""

import math
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mapolab.config.rollout import named_reward
from mapolab.errors import RunError
from mapolab.evaluation.scorers.registry import build_scorers
from mapolab.evaluation.scorers.scorer import Scorer


@dataclass(frozen=True)
class Rewards:
    """A reward is the sum of weight times score, with the sign turned of scorers for which lower is better."""

    scorers: list[Scorer]
    weights: list[float]

    @classmethod
    def of(cls, rollout: dict[str, Any], device: str) -> "Rewards":
        """Those of the block `rollout`. Raises UserError for a scorer whose weights or settings are not there."""
        named, weights = zip(*(named_reward(entry) for entry in rollout["rewards"]), strict=True)
        scorers = build_scorers(list(named), rollout["target_style"], device, "rollout.rewards")
        return cls(scorers, list(weights))

    @property
    def names(self) -> list[str]:
        """Of the scorers."""
        return [scorer.name for scorer in self.scorers]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What decides each scorer's numbers, by its name."""
        return {scorer.name: scorer.fingerprint for scorer in self.scorers}

    def scores(self, pictures: list[Image.Image], prompts: list[str]) -> list[dict[str, float]]:
        """Each picture's score by each scorer. Raises RunError for one that is not finite."""
        columns = {scorer.name: scorer.judge_all(pictures, prompts) for scorer in self.scorers}
        for name, values in columns.items():
            for value, prompt in zip(values, prompts, strict=True):
                if not math.isfinite(value):
                    raise RunError(
                        f"The reward {name} is {value} for a picture of the prompt {prompt!r}. The weights were not "
                        "updated with it. Look at the scorer's weights and at that prompt, or leave the scorer out of "
                        "rollout.rewards; the same command continues the run from its last checkpoint."
                    )
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def total(self, scores: dict[str, float]) -> float:
        """The reward of a picture with these scores."""
        signs = {scorer.name: 1 if scorer.higher_is_better else -1 for scorer in self.scorers}
        weighted = zip(self.names, self.weights, strict=True)
        return sum(weight * signs[name] * scores[name] for name, weight in weighted)
