"""What a scorer is: a batch of pictures and their prompts in, one float each out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from PIL import Image

from mapolab.errors import RunError
from mapolab.files import short_hash


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
        """Hashes of the weights behind the score, and whatever else decides it."""
        return []

    @cached_property
    def fingerprint(self) -> str:
        """Names this score of a picture: another fingerprint, another number."""
        return short_hash([type(self).__module__, type(self).__qualname__, self.name, *self.weights_identity()])

    def about(self) -> dict:
        """What the evaluation's settings file says of this scorer."""
        keys = ("name", "kind", "higher_is_better", "minimum", "maximum", "description", "source", "fingerprint")
        return {key: getattr(self, key) for key in keys}
