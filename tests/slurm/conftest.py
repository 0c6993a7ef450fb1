"""One throwaway Slurm for all tests here; without Slurm they are skipped, loudly."""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import throwaway


@pytest.fixture(scope="session")
def cluster() -> Iterator[throwaway.Throwaway]:
    if missing := throwaway.missing():
        reason = f"SLURM IS NOT INSTALLED ({', '.join(missing)}), so nothing about Slurm was tested"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    # A short path: the length of munge's socket is limited.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        slurm = throwaway.Throwaway(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
