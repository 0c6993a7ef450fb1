"""Scores of all pictures that compete, wherever they lie; kept in the store."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mapolab.data.images import BrokenImage, whole_picture
from mapolab.data.records import BrokenRow
from mapolab.evaluation.processes import Processes
from mapolab.evaluation.progress import progress_bar
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scoring import score_pictures
from mapolab.evaluation.store import Store
from mapolab.pairs.material import Contest, Material, Picture, score_key

CHUNK = 64  # contests scored by one process at a time: so many are read together, in their order


def score_material(
    scorers: Sequence[Scorer], material: Material, store: Store, group: int, processes: Processes
) -> int:
    """Score this process's share; returns how many scores that were. Broken pictures of a data set stay without.

    Chunks and the groups in them are fixed: a score is the same on any number of processes and after any kill.
    """
    if not scorers:
        return 0
    contests, computed = material.contests, 0
    chunks = [contests[start : start + CHUNK] for start in range(0, len(contests), CHUNK)]
    with progress_bar("scoring", len(contests), processes) as progress:
        for chunk in chunks[processes.rank :: processes.count]:
            computed += _score(scorers, chunk, material, store, group)
            progress(len(chunk))
    return computed


def _score(scorers: Sequence[Scorer], chunk: Sequence[Contest], material: Material, store: Store, group: int) -> int:
    asked = {score_key(picture, one.caption): (picture, one.caption) for one in chunk for picture in one.pictures}
    fingerprints = {scorer.fingerprint for scorer in scorers}
    if all(fingerprints <= store.scores(key).keys() for key in asked):
        return 0
    found = Found(material, store)
    sound = [key for key, (picture, _) in asked.items() if found.add(key, picture)]
    captions = [asked[key][1] for key in sound]
    return score_pictures(list(scorers), sound, captions, store, group, (0, 1), lambda done: None, found)


class Found:
    """The pictures of a chunk: drawn ones in the store, others as files in memory."""

    def __init__(self, material: Material, store: Store) -> None:
        self.material, self.store = material, store
        self.pictures: dict[str, Picture] = {}
        self.files: dict[str, bytes] = {}

    def add(self, key: str, picture: Picture) -> bool:
        """Take up a picture; whether it is sound."""
        self.pictures[key] = picture
        if picture.prompt is not None:
            return True
        try:
            self.files[key] = self.material.read(picture)
            whole_picture(self.files[key])
        except (BrokenRow, BrokenImage):
            return False
        return True

    def picture(self, key: str) -> str:
        """Which one it is, for people."""
        picture = self.pictures[key]
        drawn = f", drawn by {picture.model} from {picture.prompt!r}" if picture.prompt is not None else ""
        return f"the picture {picture.uid}{drawn}"

    def load_picture(self, key: str) -> Image.Image:
        if key in self.files:
            return whole_picture(self.files[key])
        return self.store.load_picture(self.pictures[key].place)
