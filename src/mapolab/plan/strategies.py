"""The peak of the same step under every strategy and some numbers of devices, from one trace."""

from typing import Any

import yaml

from mapolab.paths import conf_folder
from mapolab.plan.measure import Measured
from mapolab.plan.memory import Weights

DEVICES = (1, 2, 8, 32)


WHOLE = ("single", "ddp")  # the model is on every device, as a run that draws needs it
ALL = (*WHOLE, "fsdp", "deepspeed_zero2", "deepspeed_zero3_offload")


def peaks_by_strategy(weights: Weights, measured: Measured, reference: str | None, limit: int) -> list[dict[str, Any]]:
    """One entry for each strategy and number of devices: strategy, devices, peak_bytes, host_bytes, fits."""
    found = []
    for name in WHOLE if weights.config["rollout"] else ALL:
        for devices in (1,) if name == "single" else DEVICES[1:]:
            static = weights.static(devices, reference, read_strategy(name))
            peak = static.peak(measured)
            entry = {"strategy": name, "devices": devices, "peak_bytes": peak, "host_bytes": static.host}
            found.append(entry | {"fits": peak <= limit})
    return found


def read_strategy(name: str) -> dict[str, Any]:
    """A file of conf/strategy with those that it builds on."""
    block = yaml.safe_load((conf_folder() / "strategy" / f"{name}.yaml").read_text(encoding="utf-8"))
    bases = [read_strategy(base) for base in block.pop("defaults", []) if base != "_self_"]
    options = {key: value for base in [*bases, block] for key, value in base.get("options", {}).items()}
    return {key: value for base in [*bases, block] for key, value in base.items()} | {"options": options}
