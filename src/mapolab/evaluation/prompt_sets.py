"""The field's prompt sets, by their files on the hub.

None is shipped: HPSv2's and DrawBench's prompts come without a licence that allows it, and Pick-a-Pic's are people's
own; PartiPrompts (Apache-2.0) could be, but its file is on no package registry, and the hub could not be reached where
this was written. Each is fetched on use, and taken from a local mirror off line: a folder, named by the environment
variable MAPOLAB_PROMPT_SETS, that holds the files by their names. Files are checked by their SHA-256 where we know it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from mapolab.errors import UserError
from mapolab.files import sha256

MIRROR = "MAPOLAB_PROMPT_SETS"


@dataclass(frozen=True)
class PromptSet:
    """files: name -> SHA-256, None where it is unknown and the count must do. count: prompts, or rows, in all files.

    revision: a commit; None where we know none. image_ids: the columns with the ids of the images, where the prompts
    are the captions of a data set's rows, of which each is then taken once. Whatever was fetched, the hash of the
    prompts is part of an evaluation's settings, and evaluations with different ones are not compared.
    """

    name: str
    repository: str
    files: dict[str, str | None]
    count: int
    licence: str
    about: str
    revision: str | None = None
    image_ids: tuple[str, ...] = ()


_SETS = (
    PromptSet(
        "hpsv2",
        "zhwang/HPDv2",
        {
            "benchmark/anime.json": "6b38a479cc6f899866e9b7a8bf91f096b4afc6883b95275a61891327182b14ae",
            "benchmark/concept-art.json": "530d057deafcb82c581e9d1be2ffcb98828fe99f0b54257414d2ab8a5cf2b83e",
            "benchmark/paintings.json": "6570d39467e08b24b64e5b8a4177b0f61c525631121dc5a91fe2ab956eab4d5f",
            "benchmark/photo.json": "92a3c9a0f743f66eb87bd112cdda830d6bdb4c073c86021d53b74001fcb18052",
        },
        3200,
        "no licence stated for the prompts",
        "HPSv2's benchmark: 800 prompts each of anime, concept art, paintings and photos (Wu et al. 2023)",
        revision="b9517430f34b1080d4f741118d2a440155a165cd",
    ),
    PromptSet(
        "partiprompts",
        "nateraw/parti-prompts",
        {"PartiPrompts.tsv": "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb"},
        1632,
        "Apache-2.0",
        "P2 (Yu et al. 2022)",
        revision="944b156abfdad7627c3221b5ec4f6a6fb060a197",
    ),
    PromptSet(
        "drawbench",
        "sayakpaul/drawbench",
        {"DrawBench Prompts - Sheet1.csv": None},
        200,
        "no licence stated",
        "DrawBench (Saharia et al. 2022)",
        revision="ad794cba698c253ffdb6d18eff3fc87b004c1135",
    ),
    PromptSet(
        "i2p",
        "AIML-TUDA/i2p",
        {"i2p_benchmark.csv": None},
        4703,
        "MIT",
        "prompts that are likely to give inappropriate pictures, by category (Schramowski et al. 2023, 2211.05105)",
        revision="6594f223b0544fcbf63a6889417a6b9d2e40a77c",
    ),
    PromptSet(
        "pickapic_test_unique",
        "yuvalkirstain/pickapic_v2_no_images",
        {"data/test_unique-00000-of-00001-e852c19ead276a89.parquet": None},
        500,
        "people's own prompts, not all safe for work",
        "Pick-a-Pic v2's 500 rows of test_unique, repeated captions once (Kirstain et al. 2023)",
        image_ids=("image_0_uid", "image_1_uid"),
    ),
)
PROMPT_SETS = {chosen.name: chosen for chosen in _SETS}


def fetch_set(chosen: PromptSet) -> list[Path]:
    """The set's files, from the mirror or the hub's cache or the network.

    Raises UserError if they cannot be had, or are not the ones that we know.
    """
    mirror = os.environ.get(MIRROR)
    found = {
        name: _from_mirror(chosen, name, Path(mirror)) if mirror else _from_hub(chosen, name) for name in chosen.files
    }
    for name, path in found.items():
        if chosen.files[name] and (other := sha256(path)) != chosen.files[name]:
            raise UserError(
                f"{path} is not the file that the prompt set {chosen.name} is known by: its SHA-256 is {other}, not "
                f"{chosen.files[name]}. Fetch {name} of {chosen.repository} again, at the revision {chosen.revision}; "
                f"for other prompts name the file itself, prompts={path}."
            )
    return list(found.values())


def check_count(chosen: PromptSet, count: int) -> None:
    """Raise UserError for a set that is not whole."""
    if count != chosen.count:
        raise UserError(
            f"The prompt set {chosen.name} has {chosen.count} prompts, but {count} were found. Fetch again: "
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
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"The prompt set {chosen.name} needs {name} of the data set {chosen.repository} on the hub, which is not "
            f"in the local cache and could not be fetched ({type(error).__name__}). Connect to the network, or put the "
            f"file into a folder and set {MIRROR} to it."
        ) from None
