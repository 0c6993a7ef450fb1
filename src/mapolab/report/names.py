"""What methods and scorers are called in tables and on the page."""

from __future__ import annotations

from mapolab.texts import visible

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


def scorer_name(name: str) -> str:
    """`pixel_distance` -> `pixel distance`"""
    return visible(name.replace("_", " "))
