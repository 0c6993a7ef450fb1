"""What a scorer is: a batch of pictures and their prompts in, one float each out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, Self

import torch
from PIL import Image

from mapolab.errors import RunError
from mapolab.evaluation.scorers.fingerprint import fingerprint, note_settings


class Scorer(ABC):
    """A judge of single pictures. Its settings are the keywords of its constructor.

    A constructor that has the keyword `target_style` or `device` gets that of the evaluation.
    """

    name: str
    """Its column in scores.csv."""
    kind: str
    """"score", "accuracy", "probability" or "distance"."""
    higher_is_better: bool
    minimum: float | None
    maximum: float | None
    description: str
    source: str
    """Paper or program that defines the score."""
    token_limit: int | None = None
    """Tokens of a prompt that it reads, with the special ones; None where it reads no tokens."""
    version: int | str = 1
    """To be raised where the scores change and nothing else of the fingerprint does."""
    outside_fingerprint: tuple[str, ...] = ()
    """Settings that decide no score by themselves: where files lie whose hashes `weights_identity` gives, or which way
    is better."""

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Keep the settings, whatever constructor a derived class has."""
        scorer = super().__new__(cls)
        note_settings(scorer, cls, args, given)
        return scorer

    @abstractmethod
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        """pictures: B RGB pictures of any size; prompts: B texts -> (B,) float32."""

    def judge_all(self, pictures: list[Image.Image], prompts: list[str]) -> list[float]:
        """The scores as numbers. Raises RunError unless there is one for each picture."""
        scores = torch.as_tensor(self(pictures, prompts))
        if scores.shape != (len(pictures),):
            raise RunError(
                f"The scorer {self.name} gave scores of shape {tuple(scores.shape)} for {len(pictures)} pictures. It "
                f"must return one number for each: ({len(pictures)},)."
            )
        return scores.tolist()

    def count_tokens(self, prompt: str) -> int:
        """Tokens of the whole prompt, with the special ones. Only called where there is a `token_limit`."""
        raise NotImplementedError(f"{type(self).__name__} has a token_limit, so it must count tokens")

    def weights_identity(self) -> list[str]:
        """Hashes of what decides the score and what no setting names, such as weights that are fetched by default."""
        return []

    @cached_property
    def fingerprint(self) -> str:
        """Names this score of a picture: another fingerprint, another number."""
        return fingerprint(self)

    def about(self) -> dict:
        """What the evaluation's settings file says of this scorer."""
        keys = ("name", "kind", "higher_is_better", "minimum", "maximum", "description", "source", "fingerprint")
        return {key: getattr(self, key) for key in keys}
