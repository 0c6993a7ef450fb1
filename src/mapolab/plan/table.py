"""The plan as a page for a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from mapolab.texts import rich_text

# MaPO, 2406.06424v2, Table 3: four A100, batch 4.
PAPER = {"mapo": 46.1, "diffusion_dpo": 55.9}


def print_plan(plan: dict[str, Any]) -> None:
    """Print it."""
    console = Console(highlight=False, soft_wrap=True)
    config, memory, accelerator = plan["config"], plan["memory"], plan["accelerator"]
    console.print(
        rich_text(config["objective"], "bold")
        + rich_text(
            f" on {config['model']}, {config['resolution']} px, {config['batch_size']} {config['unit']} a device and "
            f"forward pass, {config['precision']}, {config['optimizer']}, {config['strategy']} on {config['devices']} "
            "device(s)" + (f", reference: {config['reference'].replace('_', ' ')}" if config["reference"] else "")
        )
    )
    if config["architecture_assumed"]:
        console.print("The model's configs could not be read; SDXL base's are taken.")
    table = Table("", "", show_header=False)
    trained, frozen = plan["parameters"]["trained"], plan["parameters"]["frozen"]
    table.add_row("parameters", f"{_millions(trained)} trained, {_millions(frozen)} frozen")
    table.add_row("operations of a step", f"{plan['flops']['per_step'] / 1e12:,.2f} TFLOP over all devices")
    for name, count in plan["flops"]["parts"].items():
        if count:
            table.add_row(f"  {name.replace('_', ' ')}", f"{count / 1e12:,.2f} TFLOP")
    table.add_row("peak memory of a device", _gigabytes(memory["peak_bytes"]))
    for name, size in memory["parts"].items():
        if size > 0:
            table.add_row(f"  {name}", _gigabytes(size))
    table.add_row("activations, with checkpointing", _gigabytes(memory["activations_with_checkpointing"]))
    table.add_row("activations, without", _gigabytes(memory["activations_without_checkpointing"]))
    if memory["host_bytes"]:
        table.add_row("CPU memory of a process", _gigabytes(memory["host_bytes"]))
    if plan["cache_bytes"] is not None:
        table.add_row("data.cache=true on disk, at most", _gigabytes(plan["cache_bytes"]))
    if plan["round_bytes"] is not None:
        table.add_row("paths of a round on disk", _gigabytes(plan["round_bytes"]))
    capacity, reserve = accelerator["capacity_bytes"], accelerator["reserve_bytes"]
    fits = "yes" if plan["fits"] else "NO"
    table.add_row(
        rich_text(f"fits {accelerator['name']}"), f"{fits}: {_gigabytes(capacity)}, {_gigabytes(reserve)} kept free"
    )
    table.add_row("largest batch that fits", f"{memory['largest_batch']} {config['unit']} a device")
    epochs = plan["data"]["epochs"]
    over = f", {epochs:.2f} epochs of {plan['data']['rows']:,} rows" if epochs else ""
    table.add_row("steps", f"{plan['steps']:,} of {plan['data']['pairs_per_step']} {config['unit']}{over}")
    table.add_row(
        "time",
        f"{plan['seconds_per_step']:.2f} s a step, {plan['hours']:.2f} hours, at {accelerator['efficiency']:g} of "
        f"{accelerator['peak_tflops']:g} TFLOP/s",
    )
    console.print(table)
    _print_strategies(console, memory["by_strategy"])
    if config["objective"] in PAPER and config["batch_size"] == 4 and config["resolution"] == 1024:
        console.print(
            f"The paper's Table 3, batch 4, memory beside the model: MaPO {PAPER['mapo']} GB, Diffusion-DPO "
            f"{PAPER['diffusion_dpo']} GB; docs/sdxl.md says how the two counts differ."
        )


def _print_strategies(console: Console, peaks: list[dict[str, Any]]) -> None:
    """Strategies down, numbers of devices across."""
    counts = sorted({entry["devices"] for entry in peaks})
    table = Table("peak of a device, by devices", *(str(count) for count in counts))
    for name in dict.fromkeys(entry["strategy"] for entry in peaks):
        cells = {entry["devices"]: entry for entry in peaks if entry["strategy"] == name}
        row = [_gigabytes(cells[count]["peak_bytes"]) if count in cells else "" for count in counts]
        table.add_row(
            name,
            *(
                text + ("" if not text or cells[count]["fits"] else " *")
                for text, count in zip(row, counts, strict=True)
            ),
        )
    console.print(table)
    if not all(entry["fits"] for entry in peaks):
        console.print("* does not fit")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size > 1e8 else f"{size / 1e6:,.1f} MB"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M"
