"""The floors of pyproject.toml: those of published advisories are there, and what is installed here is above all."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(text) for text in PROJECT["dependencies"]] + [
    Requirement(text) for texts in PROJECT["optional-dependencies"].values() for text in texts
]
# The last versions with a published fault that concerns files of strangers, or what runs beside them.
REFUSED = {
    "torch": "2.9.1", "lightning": "2.6.3", "diffusers": "0.42.0", "transformers": "5.5.4", "safetensors": "0.7.0",
    "pillow": "12.2.0", "pyarrow": "23.0.0", "jinja2": "3.1.5", "ray": "2.53.0", "pytest": "9.0.2",
    "playwright": "1.55.0",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_versions_with_published_faults_are_refused(name):
    (found,) = {one.specifier for one in REQUIREMENTS if one.name == name and one.specifier} or {None}
    assert found is not None and not found.contains(REFUSED[name])


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_what_is_installed_is_what_the_project_asks_for(requirement):
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        pytest.skip("an extra that is not installed here")
    assert requirement.specifier.contains(installed, prereleases=True)
