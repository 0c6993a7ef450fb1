"""What methods and scorers are called in tables and on the page."""

from __future__ import annotations

# The names that the papers use; other labels stay as they are.
METHOD_NAMES = {
    "base": "Base model",
    "sft": "SFT",
    "mapo": "MaPO",
    "mapo_reference": "MaPO (reference program)",
    "diffusion_dpo": "Diffusion-DPO",
    "diffusion_kto": "Diffusion-KTO",
    "orpo": "Diffusion-ORPO",
    "ddpo": "DDPO",
    "cdpo": "Conservative DPO",
    "ipo": "IPO",
    "dmpo": "DMPO",
    "dspo": "DSPO",
    "sdpo": "SDPO",
    "inpo": "InPO",
    "smpo": "SmPO",
}


def display_names(labels: list[str]) -> dict[str, str]:
    """Label -> name: `mapo beta=8` -> `MaPO`, with the settings that other labels of that name do not share."""
    names = {label: METHOD_NAMES.get(label.split()[0], label.split()[0]) for label in labels}
    return {label: " ".join([name, *_own_settings(label, labels)]) for label, name in names.items()}


def settings(label: str) -> list[str]:
    """`mapo beta=8` -> `["beta=8"]`"""
    return label.split()[1:]


def _own_settings(label: str, labels: list[str]) -> list[str]:
    namesakes = [settings(other) for other in labels if other.split()[0] == label.split()[0]]
    return [setting for setting in settings(label) if not all(setting in shared for shared in namesakes)]


def scorer_name(name: str) -> str:
    """`pixel_distance` -> `pixel distance`"""
    return name.replace("_", " ")
