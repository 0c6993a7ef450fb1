"""What a cache depends on: its name, and the check that it is the right one."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mapolab.data.images import PREPROCESSING_VERSION
from mapolab.errors import UserError
from mapolab.files import short_hash

FORMAT_VERSION = 1
DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class CacheSpec:
    """The ingredients of a cache. It does not depend on objective, seed or labels: a sweep encodes once."""

    data_fingerprint: str
    encoder_identity: str  # names VAE, text encoders and tokenizers
    resolution: int
    aspect_buckets: bool
    both_orientations: bool  # mirrored images are encoded too
    with_std: bool  # the posterior's standard deviation is kept, to sample from it
    dtype: str  # of what is kept: float32 or float16

    @property
    def ingredients(self) -> dict[str, Any]:
        """All that the content depends on, as the manifest keeps it."""
        versions = {"preprocessing_version": PREPROCESSING_VERSION, "format_version": FORMAT_VERSION}
        return asdict(self) | versions

    @property
    def key(self) -> str:
        """The name of the cache's folder."""
        return short_hash(self.ingredients)

    @property
    def orientations(self) -> tuple[bool, ...]:
        """Whether each encoded orientation is mirrored."""
        return (False, True) if self.both_orientations else (False,)

    def check(self, folder: Path, ingredients: dict[str, Any]) -> None:
        """Raise UserError, naming the difference, unless a cache with these ingredients is the one wanted."""
        for name, wanted in self.ingredients.items():
            if ingredients.get(name) != wanted:
                raise UserError(
                    f"The cache {folder} is a wrong one: its {name.replace('_', ' ')} is {ingredients.get(name)}, "
                    f"this run needs {wanted}. Remove that folder, or choose another data.cache_folder."
                )
