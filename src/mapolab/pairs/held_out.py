"""Prompts that others are judged on, and that therefore no pair may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mapolab.config.environment_values import as_typed
from mapolab.data.hygiene import plain_prompt
from mapolab.errors import UserError
from mapolab.evaluation.prompts import held_out
from mapolab.files import short_hash

Item = TypeVar("Item")


@dataclass(frozen=True)
class HeldOut:
    """prompts: compared regardless of case and spacing. image_ids: of the data set that the prompts came from.

    drop: leave out what stands there, instead of refusing it.
    """

    prompts: frozenset[str]
    image_ids: frozenset[str]
    drop: bool
    name: str | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any], cache_folder: Path) -> HeldOut:
        """From the keys `held_out...`. Raises UserError where they name nothing."""
        name = config["held_out"]
        prompts, image_ids = held_out(name, config["held_out_split"], config["held_out_revision"], cache_folder)
        plain = frozenset(plain_prompt(prompt) for prompt in prompts)
        return cls(plain, frozenset(image_ids), config["drop_held_out"], as_typed(config)["held_out"])

    @property
    def about(self) -> dict[str, Any]:
        """For the manifest."""
        content = short_hash([sorted(self.prompts), sorted(self.image_ids)])
        return {"name": self.name, "prompts": len(self.prompts), "content": content, "drop": self.drop}

    def __call__(
        self, items: Sequence[Item], caption: Callable[[Item], str], ids: Callable[[Item], Sequence[str]] = lambda _: ()
    ) -> list[Item]:
        """The items that are not held out, in their order.

        Raises UserError where some are and `drop` does not say to leave them out.
        """
        kept, found = [], []
        for item in items:
            held = plain_prompt(caption(item)) in self.prompts or not self.image_ids.isdisjoint(ids(item))
            (found if held else kept).append(item)
        if found and not self.drop:
            raise UserError(
                f"{len(found)} of {len(items)} captions, such as {caption(found[0])[:80]!r}, stand in "
                f"held_out={self.name} or share its images: what is trained on these pairs would be judged by what it "
                "saw. Give other prompts, or set drop_held_out=true to leave these out (`mapolab iterate`: "
                "data.allow_overlap=true keeps them)."
            )
        return kept
