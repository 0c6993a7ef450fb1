"""Where the package's own files lie, installed or in a checkout."""

import glob
import os
import re
from pathlib import Path

from mapolab.errors import UserError

PACKAGE = Path(__file__).parent
BUILTIN = "builtin:"


def conf_folder() -> Path:
    """The folder of the config files: `mapolab/conf` of an installed wheel, `conf/` at the top of a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent.parent / "conf"


def resolve(path: str) -> Path | str:
    """Turn `builtin:tiny_twin` into the file or folder of that name among the package's assets.

    Every other string (a path, the name of a model on the hub) comes back as it is. Raises UserError for an asset that
    the package does not have.
    """
    if not path.startswith(BUILTIN):
        return path
    asset = PACKAGE / "assets" / path.removeprefix(BUILTIN)
    if not asset.exists():
        raise UserError(f"The package has no {path}. {_neighbours(asset)}")
    return asset


def find_paths(pattern: str) -> list[Path]:
    """What a path, or a pattern of them, names, in order; `**` matches folders of any depth.

    What exists is a path, whatever it holds: `outputs/[a]` is the folder of that name, and `outputs/[a]/*` what is in
    it, unless there is no folder `outputs/[a]`.
    """
    there, rest = Path(), list(Path(pattern).parts)
    while rest and os.path.exists(there / rest[0]):
        there = there / rest.pop(0)
    if not rest:
        return [there] if pattern.strip() else []
    return [Path(match) for match in sorted(glob.glob(os.path.join(glob.escape(str(there)), *rest), recursive=True))]


# What names a device on Windows, whatever ends the name.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def file_name_fault(name: str) -> str | None:
    """Why `name`, which somebody chose, cannot begin the name of a file or folder on every system; None if it can."""
    if not name.strip():
        return "it is blank"
    if found := next((sign for sign in name if sign in '/\\:*?"<>|' or not sign.isprintable()), None):
        return f"it holds {found!r}"
    if name[0] in ".-~ " or name[-1] in ". ":
        return f"it begins or ends with {(name[0] if name[0] in '.-~ ' else name[-1])!r}"
    if _DEVICES.fullmatch(name):
        return "Windows keeps it for a device"
    if len(name) > 100 or len(os.fsencode(name)) > 200:
        return "it is longer than 100 characters"
    return None


def _neighbours(asset: Path) -> str:
    """A sentence that lists what does exist where `asset` was looked for."""
    assets = PACKAGE / "assets"
    folder = next((parent for parent in asset.parents if parent.is_dir()), PACKAGE)
    if not folder.is_relative_to(assets):
        return "This installation lacks its assets folder; install mapolab again."
    names = sorted(BUILTIN + entry.relative_to(assets).as_posix() for entry in folder.iterdir())
    return f"There is: {', '.join(names)}."
