"""Split hygiene: does the training data hold prompts or images that the run will be judged on?"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from mapolab import checksums
from mapolab.data.records import RowText, Source
from mapolab.errors import UserError
from mapolab.files import short_hash

READERS = 16  # threads


@dataclass(frozen=True)
class Overlap:
    """How many different prompts and images of the evaluation the training data holds, in how many rows."""

    prompts: int
    images: int
    rows: int
    example: str

    def __str__(self) -> str:
        return f"{self.prompts} prompts and {self.images} images of the evaluation, in {self.rows} rows"


def overlap(source: Source, prompts: Iterable[str], image_ids: Iterable[str]) -> Overlap:
    """Compare block by block: captions regardless of case and spacing, images by id. No image is read."""
    held_prompts, held_images = {plain_prompt(prompt) for prompt in prompts}, set(image_ids)
    found_prompts: set[str] = set()
    found_images: set[str] = set()
    rows, example = 0, ""
    for text in all_texts(source):
        same_prompt = text.caption is not None and plain_prompt(text.caption) in held_prompts
        same_images = held_images.intersection(text.image_ids)
        if same_prompt:
            found_prompts.add(plain_prompt(text.caption or ""))
        found_images |= same_images
        if same_prompt or same_images:
            rows += 1
            example = example or text.caption or ""
    return Overlap(len(found_prompts), len(found_images), rows, example)


def check_split(source: Source, prompts: list[str], image_ids: list[str], allowed: bool, kept_in: Path) -> str | None:
    """Raise UserError if the data overlaps with what is held out, unless that is allowed.

    The result is kept under `kept_in`, so that one pass over the captions is enough for all later runs. Returns a note
    for the manifest where an overlap was allowed.
    """
    file = kept_in / f"{short_hash([source.fingerprint, prompts, image_ids])}.json"
    try:
        found = Overlap(**checksums.read_json(file))
    except (OSError, ValueError, TypeError):
        print("Comparing the data's captions with the evaluation's, once for this data.", flush=True)
        found = overlap(source, prompts, image_ids)
        checksums.write_json(file, asdict(found))
    if not found.rows:
        return None
    if not allowed:
        raise UserError(
            f"The training data shares {found}, such as {found.example[:80]!r}: the scores would measure memory. "
            "Train on another split (data.split), evaluate on other prompts, or set data.allow_overlap=true; the "
            "manifest then says so."
        )
    return f"trained on {found} (data.allow_overlap)"


def all_texts(source: Source) -> Iterator[RowText]:
    """The texts of all rows, some blocks at a time: what is far away is asked for by many threads at once."""
    blocks = range(len(source.block_sizes))
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(blocks), 4 * READERS):
            for texts in readers.map(source.texts, blocks[start : start + 4 * READERS]):
                yield from texts


def plain_prompt(prompt: str) -> str:
    """A prompt as it is compared with others: regardless of case and spacing."""
    return " ".join(prompt.split()).casefold()
