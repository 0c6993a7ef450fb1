"""One throwaway Slurm for all tests here; without Slurm they are skipped, loudly."""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import throwaway


@pytest.fixture(scope="session")
def slurm() -> Iterator[throwaway.Throwaway]:
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


@pytest.fixture
def cluster(slurm: throwaway.Throwaway, tmp_path: Path) -> Iterator[throwaway.Throwaway]:
    """The Slurm, empty again after each test, so that one failure stays one; what it shows goes into the failure."""
    yield slurm
    print(slurm.run("squeue", "-o", "%i %T %r %N %M"), slurm.run("sinfo", "-N"))
    for log in sorted(tmp_path.rglob("logs/*.log")):
        print(f"{log}:", *log.read_text(errors="replace").splitlines()[-15:], sep="\n")
    slurm.clear()
