"""From rewards to advantages: how much better than usual for its prompt a picture is."""

from collections.abc import Sequence

import numpy as np

SMALLEST_SPREAD = 1e-6  # added, so that equal rewards give advantages of 0


class PromptStatistics:
    """The newest rewards of each prompt, over rounds; part of the checkpoint. Black et al., 2305.13301.

    buffer: how many of a prompt are kept; None: none, and every round is standardised by itself. minimum: with fewer
    rewards of a prompt than that, the whole round's mean and standard deviation stand in.
    """

    def __init__(self, buffer: int | None, minimum: int):
        self.buffer, self.minimum = buffer, minimum
        self.rewards: dict[str, list[float]] = {}

    def advantages(self, prompts: Sequence[str], rewards: Sequence[float]) -> list[float]:
        """(reward - mean) / (standard deviation + 1e-6) of each picture of a round, which counts itself."""
        values = np.asarray(rewards, dtype=np.float64)
        if self.buffer is not None:
            for prompt, reward in zip(prompts, values.tolist(), strict=True):
                self.rewards[prompt] = [*self.rewards.get(prompt, []), reward][-self.buffer :]
        found = []
        for prompt, reward in zip(prompts, values, strict=True):
            known = self.rewards.get(prompt, [])
            among = np.asarray(known) if len(known) >= self.minimum else values
            found.append(float((reward - among.mean()) / (among.std() + SMALLEST_SPREAD)))
        return found
