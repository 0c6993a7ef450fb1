"""One throwaway Slurm for all tests here; without Slurm they are skipped, loudly."""

import importlib.util
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    """A module beside this file: tests are no package."""
    spec = importlib.util.spec_from_file_location(f"mapolab_tests_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


throwaway = _load("throwaway")


@pytest.fixture(scope="session")
def cluster() -> Iterator["throwaway.Throwaway"]:
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
def wait_for():
    """Poll with a limit."""
    return throwaway.wait_for
