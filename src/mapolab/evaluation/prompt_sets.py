"""The field's prompt sets, by their files on the hub.

None is shipped: HPSv2's and DrawBench's prompts come without a licence that allows it, and Pick-a-Pic's are people's
own; PartiPrompts (Apache-2.0) could be, but its file could not be had where this was written. Each is fetched on use,
and taken from a local mirror off line: a folder, named by the environment variable MAPOLAB_PROMPT_SETS, that holds the
files by their names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from mapolab.errors import UserError

MIRROR = "MAPOLAB_PROMPT_SETS"


@dataclass(frozen=True)
class PromptSet:
    """count: prompts in all files. split: set where the prompts are the captions of a data set's split.

    revision: a commit; None where we know none, and the count must do. Whatever was fetched, the hash of the prompts is
    part of an evaluation's settings, and evaluations with different ones are not compared.
    """

    name: str
    repository: str
    files: tuple[str, ...]
    count: int
    licence: str
    about: str
    revision: str | None = None
    split: str | None = None


_SETS = (
    PromptSet(
        "hpsv2",
        "zhwang/HPDv2",
        tuple(f"benchmark/{style}.json" for style in ("anime", "concept-art", "paintings", "photo")),
        3200,
        "no licence stated for the prompts",
        "HPSv2's benchmark: 800 prompts each of anime, concept art, paintings and photos (Wu et al. 2023)",
    ),
    PromptSet(
        "partiprompts", "nateraw/parti-prompts", ("PartiPrompts.tsv",), 1632, "Apache-2.0", "P2 (Yu et al. 2022)"
    ),
    PromptSet(
        "drawbench",
        "sayakpaul/drawbench",
        ("DrawBench Prompts - Sheet1.csv",),
        200,
        "no licence stated",
        "DrawBench (Saharia et al. 2022)",
        revision="ad794cba698c253ffdb6d18eff3fc87b004c1135",
    ),
    PromptSet(
        "pickapic_test_unique",
        "yuvalkirstain/pickapic_v2",
        (),
        500,
        "people's own prompts, not all safe for work",
        "Pick-a-Pic v2's 500 rows of test_unique, repeated captions once (Kirstain et al. 2023)",
        split="test_unique",
    ),
)
PROMPT_SETS = {chosen.name: chosen for chosen in _SETS}


def fetch_set(chosen: PromptSet) -> list[Path]:
    """The set's files, from the mirror or the hub's cache or the network. Raises UserError if they cannot be had."""
    mirror = os.environ.get(MIRROR)
    return [_from_mirror(chosen, name, Path(mirror)) if mirror else _from_hub(chosen, name) for name in chosen.files]


def check_count(source: str, prompts: list[str]) -> None:
    """Raise UserError for a named set that is not whole."""
    chosen = PROMPT_SETS.get(source)
    if chosen and chosen.split is None and len(prompts) != chosen.count:
        raise UserError(
            f"The prompt set {source} has {chosen.count} prompts, but {len(prompts)} were found. Fetch again: "
            f"{', '.join(chosen.files)} of {chosen.repository}."
        )


def _from_mirror(chosen: PromptSet, name: str, mirror: Path) -> Path:
    for path in (mirror / chosen.repository / name, mirror / name, mirror / Path(name).name):
        if path.is_file():
            return path
    raise UserError(
        f"{MIRROR}={mirror} holds no {Path(name).name} for the prompt set {chosen.name}. Put it there: {name} of the "
        f"data set {chosen.repository} on the hub."
    )


def _from_hub(chosen: PromptSet, name: str) -> Path:
    try:
        return Path(hf_hub_download(chosen.repository, name, repo_type="dataset", revision=chosen.revision))
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"The prompt set {chosen.name} needs {name} of the data set {chosen.repository} on the hub, which is not "
            f"in the local cache and could not be fetched ({type(error).__name__}). Connect to the network, or put the "
            f"file into a folder and set {MIRROR} to it."
        ) from None
