"""The prompts that a run draws, and which of them comes when."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapolab.data.hygiene import all_texts
from mapolab.data.order import permutation
from mapolab.data.records import RowText, Source
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
from mapolab.evaluation.prompts import find_prompts
from mapolab.files import short_hash, write_json
from mapolab.reading import read_object
from mapolab.streams import Stream
from mapolab.training.data import cache_folder


@dataclass(frozen=True)
class PromptList:
    """Prompts without pictures, as much of a `Source` as needs no picture."""

    prompts: tuple[str, ...]
    images_per_row = 0
    broken_files = ()

    @property
    def fingerprint(self) -> str:
        return short_hash(list(self.prompts))

    @property
    def block_sizes(self) -> tuple[int, ...]:
        return (len(self.prompts),)

    def texts(self, block: int) -> Sequence[RowText]:
        """All of them."""
        return [RowText(prompt, ()) for prompt in self.prompts]


def open_prompts(config: dict[str, Any]) -> Source | PromptList:
    """What `rollout.prompts` names, or the data, for its captions. Raises UserError where there are none."""
    data, named, folder = config["data"], config["rollout"]["prompts"], cache_folder(config)
    if named is None:
        return open_source(data["path"], data["split"], data["revision"], folder, data["download_cache_gb"])
    return PromptList(tuple(dict.fromkeys(find_prompts(named, None, None, folder, "rollout."))))


def captions(source: Source | PromptList, kept_in: Path) -> list[str]:
    """The different prompts of a source, in the order of their first rows; no image is read.

    Kept under `kept_in`, so that one pass over the captions is enough for all later runs. Raises UserError where the
    source has none.
    """
    file = kept_in / f"{source.fingerprint}.json"
    try:
        return read_object(file, list[str], "")
    except UserError:  # none yet, or a broken one
        found = list(dict.fromkeys(text.caption for text in all_texts(source) if text.caption))
    if not found:
        raise UserError("The data has no caption that could be drawn. Choose another data.path, or rollout.prompts.")
    write_json(file, found)
    return found


def prompt_at(seed: int, position: int, prompts: Sequence[str], images_per_prompt: int) -> str:
    """The prompt of the picture at a position: each pass draws all prompts once, shuffled, each so often in a row."""
    epoch, offset = divmod(position // images_per_prompt, len(prompts))
    return prompts[permutation(seed, epoch, len(prompts), Stream.ROLLOUT_PROMPT)[offset]]
