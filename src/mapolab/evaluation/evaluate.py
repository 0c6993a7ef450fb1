"""``mapolab evaluate run=<folder>``: draw the prompts and score the pictures, for a run and for its base."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from mapolab import files
from mapolab.errors import UserError
from mapolab.evaluation.generation import final_weights, generate, load_pictures, load_pipeline, picture_path
from mapolab.evaluation.prompts import find_prompts
from mapolab.evaluation.scorer import Scorer, build_scorers

OVERRIDABLE = ("prompts", "split", "revision", "steps", "guidance_scale", "seed", "batch_size")


def evaluate(config: dict) -> Path:
    """Evaluate the run and its base with the run's own evaluation settings, but for what the command overrides.

    Returns the folder ``<run>/evaluation/<hash>`` with settings.json, scores.csv and images/. What is there already is
    not drawn or scored again. Raises UserError when the folder is no finished run.
    """
    run = Path(config["run"])
    run_config = config_of_finished_run(run)
    options = run_config["evaluation"] | {key: config[key] for key in OVERRIDABLE if config.get(key) is not None}
    if not options["prompts"]:
        raise UserError("There are no prompts to draw. Give prompts=<a .csv or .txt file>.")
    # Runs from before data sets could hold the prompts lack these keys.
    index_folder = Path(run_config["data"].get("cache_folder") or Path(run_config["output_root"]) / ".cache")
    prompts = find_prompts(options["prompts"], options.get("split"), options.get("revision"), index_folder)
    scorers = build_scorers(options["scorers"], options["target_style"])
    settings = _settings(options, prompts, scorers)
    base = _base_folder(run, run_config)
    folders = {"base": _evaluation_folder(base, settings), _label(run): _evaluation_folder(run, settings)}
    for folder, weights in zip(folders.values(), (None, final_weights(run)), strict=True):
        _evaluate_one(folder, run_config, weights, prompts, scorers, settings, options["batch_size"])
    files.write_json(folders[_label(run)] / "links.json", {"base": f"../{base.name}"})
    _print_means(folders, scorers)
    return folders[_label(run)]


def config_of_finished_run(run: Path) -> dict:
    """The resolved config of the run in this folder. Raises UserError unless the run is finished."""
    if not (run / "manifest.json").is_file():
        raise UserError(
            f"{run} is not a run folder: it has no manifest.json. Give run=<the folder that `train` named>."
        )
    status = files.read_json(run / "manifest.json")["status"]
    if status != "finished" or final_weights(run) is None:
        raise UserError(f"The run in {run} is {status}, not finished. Give its `mapolab train` command again first.")
    return OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)


def _label(run: Path) -> str:
    manifest = files.read_json(run / "manifest.json")
    return f"{manifest['label']}, seed {manifest['seed']}"


def _settings(options: dict, prompts: list[str], scorers: list[Scorer]) -> dict:
    """All that decides what the pictures and scores are; its hash names the evaluation's folder."""
    keys = ("prompts", "steps", "guidance_scale", "seed", "height", "width", "target_style")
    settings = {key: options[key] for key in keys}
    prompt_hash = files.short_hash(prompts)
    return settings | {
        "prompt_count": len(prompts),
        "prompts_hash": prompt_hash,
        "scheduler": "EulerDiscreteScheduler",
        "scorers": [scorer.about() for scorer in scorers],
    }


def _evaluation_folder(run: Path, settings: dict) -> Path:
    return run / "evaluation" / files.short_hash(settings)


def _base_folder(run: Path, run_config: dict) -> Path:
    """The base model as a run of its own, beside the runs that started from it."""
    model = {key: run_config["model"][key] for key in ("pretrained", "revision", "variant", "vae")}
    # Only where they differ from the usual: the folders of older evaluations keep their names.
    model |= {"vae_revision": revision} if (revision := run_config["model"].get("vae_revision")) else {}
    sampling = {
        key: run_config.get("diffusion", {}).get(key, "auto") for key in ("prediction_type", "zero_terminal_snr")
    }
    model |= {key: value for key, value in sampling.items() if value != "auto"}
    folder = run.parent / f"base-{files.short_hash(model)}"
    if not (folder / "manifest.json").exists():
        manifest = {"status": "finished", "objective": {"name": "base"}, "label": "base", "seed": None, "model": model}
        files.write_json(folder / "manifest.json", manifest)
    return folder


def _evaluate_one(
    folder, run_config: dict, weights: Path | None, prompts, scorers, settings: dict, batch_size: int
) -> None:
    if (folder / "scores.csv").exists():
        return
    files.write_json(folder / "settings.json", settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = load_pipeline(run_config, weights).to(device)
    console = Console()
    with console.status(f"drawing {len(prompts)} pictures into {folder}") as status:
        generate(
            pipeline,
            prompts,
            settings,
            folder,
            batch_size,
            lambda done: status.update(f"{done}/{len(prompts)} pictures in {folder}"),
        )
    _write_scores(folder, prompts, scorers, settings["seed"], batch_size)


@torch.no_grad()
def _write_scores(folder: Path, prompts: list[str], scorers: list[Scorer], seed: int, batch_size: int) -> None:
    """scores.csv: index, prompt, seed, image, then a column a scorer. It appears only when every picture is scored."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["index", "prompt", "seed", "image", *(scorer.name for scorer in scorers)])
    for start in range(0, len(prompts), batch_size):
        texts = prompts[start : start + batch_size]
        paths = [picture_path(folder, start + offset) for offset in range(len(texts))]
        pictures = load_pictures(paths)
        columns = [scorer(pictures, texts).tolist() for scorer in scorers]
        for offset, (path, text) in enumerate(zip(paths, texts, strict=True)):
            scores = [f"{column[offset]:.6g}" for column in columns]
            writer.writerow([start + offset, text, seed, path.relative_to(folder).as_posix(), *scores])
    files.write_text(folder / "scores.csv", buffer.getvalue())


def _print_means(folders: dict[str, Path], scorers: list[Scorer]) -> None:
    table = Table("", *(scorer.name for scorer in scorers), title="mean scores")
    for label, folder in folders.items():
        with open(folder / "scores.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        means = [sum(float(row[scorer.name]) for row in rows) / len(rows) for scorer in scorers]
        table.add_row(label, *(f"{mean:.3f}" for mean in means))
    Console().print(table)
