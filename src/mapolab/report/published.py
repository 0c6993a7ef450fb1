"""Figures from papers, to be set beside one's own and never mixed with them."""

from __future__ import annotations

from typing import Any

SOURCE = "MaPO, 2406.06424v2, Table 2: SDXL on Pick-a-Pic v2's test prompts"
# Method -> scorer -> the paper's figure.
PUBLISHED = {
    "SDXL": {"aesthetic": 6.03, "hps_v2.1": 30.0, "pickscore": 22.4},
    "SFT": {"aesthetic": 5.95, "hps_v2.1": 29.6, "pickscore": 22.0},
    "Diffusion-DPO": {"aesthetic": 6.03, "hps_v2.1": 31.1, "pickscore": 22.9},
    "InPO": {"aesthetic": 6.14, "hps_v2.1": 30.2, "pickscore": 22.5},
    "SmPO": {"aesthetic": 6.18, "hps_v2.1": 30.8, "pickscore": 23.0},
    "MaPO": {"aesthetic": 6.34, "hps_v2.1": 31.2, "pickscore": 22.9},
}


def published_rows(scorers: list[str]) -> list[tuple[str, list[str]]]:
    """(method, its figure or a dash for each of the scorers); none where the papers used none of them."""
    if not {*scorers} & {*PUBLISHED["SDXL"]}:
        return []
    return [
        (method, [f"{figures[name]:g}" if name in figures else "\N{EN DASH}" for name in scorers])
        for method, figures in PUBLISHED.items()
    ]


def published_note(settings: dict[str, Any]) -> str:
    """Where the figures are from, and whether an evaluation of these settings drew the same prompts."""
    prompts = str(settings.get("prompts"))
    whole = prompts == "pickapic_test_unique" or (settings.get("split") == "test_unique" and "pickapic" in prompts)
    if whole and settings.get("limit") is None:
        return f"{SOURCE}."
    cut = "" if settings.get("limit") is None else f", the first {settings['limit']}"
    return f"{SOURCE}. Your prompts are others ({prompts}{cut}): these figures compare with each other, not with yours."
