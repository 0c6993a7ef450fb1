"""``mapolab evaluate models=[...]``: draw the prompts with every model and score the pictures."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mapolab import files
from mapolab.evaluation.categories import find_categories
from mapolab.evaluation.models import EvaluatedModel, base_of, find_models
from mapolab.evaluation.options import drawings_of, load_prompts, options_for, settings_of
from mapolab.evaluation.processes import Processes, start_processes
from mapolab.evaluation.progress import progress_bar
from mapolab.evaluation.prompt_lengths import cut_prompts
from mapolab.evaluation.scorers.registry import build_scorers
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scoring import score_pictures, write_table
from mapolab.evaluation.store import Store


def evaluate(config: dict[str, Any]) -> list[Path]:
    """Draw and score with the models of `config`, and with the bases that their runs started from.

    Returns the evaluations' folders, ``<model's folder>/evaluation/<hash>`` with settings.json, scores.csv and images/,
    in the order of the models, bases first. What the store holds is not drawn or scored again. Raises UserError for
    what cannot be evaluated, before anything is drawn.
    """
    output_root = Path(config.get("output_root") or "outputs")
    models = find_models(config["models"], output_root)
    bases = {} if config.get("base") is False else _bases(models, output_root)
    everyone = list({model.folder.resolve(): model for model in [*bases.values(), *models]}.values())
    options = options_for(models, config)
    for model in everyone:
        model.check()
    prompts = load_prompts(options, output_root / ".cache")
    processes = start_processes(config.get("devices") or "auto")
    scorers = build_scorers(options["scorers"], options["target_style"], processes.device)
    settings = settings_of(options, prompts, everyone, on_gpu=processes.device != "cpu")
    cut = cut_prompts(everyone[0], scorers, prompts)
    store = Store(Path(config.get("store") or output_root / ".store"))
    if processes.rank == 0:
        _tell(cut, len(prompts))
    drawings, categories = drawings_of(prompts, settings), find_categories(options["prompts"])
    work = Evaluation(settings, options, drawings, scorers, store, processes, cut, categories)
    folders = {model.folder: work.run(model) for model in everyone}
    if processes.rank == 0:
        for model in models:
            if model.folder.resolve() in bases:
                base = os.path.relpath(bases[model.folder.resolve()].folder, model.folder)
                files.write_json(folders[model.folder] / "links.json", {"base": base})
        _print_means([(model.name, folders[model.folder]) for model in everyone], scorers)
    processes.barrier()
    return list(folders.values())


def _bases(models: list[EvaluatedModel], output_root: Path) -> dict[Path, EvaluatedModel]:
    """The base of each run, by the run's folder."""
    runs = [model for model in models if model.run is not None]
    return {model.folder.resolve(): base_of(model.run, output_root, model.began) for model in runs}


class Evaluation:
    """One way to draw and score, for several models."""

    def __init__(
        self,
        settings: dict[str, Any],
        options: dict[str, Any],
        drawings: list[tuple[str, int, int]],
        scorers: list[Scorer],
        store: Store,
        processes: Processes,
        cut: dict[str, int],
        categories: dict[str, str],
    ) -> None:
        self.categories = categories
        self.settings, self.drawings, self.scorers, self.store = settings, drawings, scorers, store
        self.processes, self.group, self.cut = processes, options["batch_size"], cut
        # Under which names the prompts were found; what they are is in the settings' hash.
        self.named = {
            key: options[key] for key in ("prompts", "split", "revision", "limit") if options[key] is not None
        }

    def run(self, model: EvaluatedModel) -> Path:
        """Draw and score with one model; returns the evaluation's folder, which appears when all of it is done."""
        from mapolab.evaluation.generation import generate, load_pipeline, picture_keys

        folder = model.folder / "evaluation" / files.short_hash(self.settings)
        keys = picture_keys(model, self.drawings, self.settings)
        share = (self.processes.rank, self.processes.count)

        def pipeline():
            return load_pipeline(model, self.settings["scheduler"], self.settings["precision"]).to(
                self.processes.device
            )

        with progress_bar(f"{model.name}: drawing", len(keys), self.processes) as progress:
            drawn = generate(pipeline, self.drawings, keys, self.settings, self.store, self.group, share, progress)
        prompts = [prompt for prompt, _, _ in self.drawings]
        with progress_bar(f"{model.name}: scoring", len(keys), self.processes) as progress:
            scored = score_pictures(self.scorers, keys, prompts, self.store, self.group, share, progress)
        self.processes.barrier()
        if self.processes.rank == 0:
            self._write(model, folder, keys)
            if self.processes.count == 1:
                print(f"{model.name}: {drawn} of {len(keys)} pictures drawn, {scored} scores computed")
        self.processes.barrier()
        return folder

    def _write(self, model: EvaluatedModel, folder: Path, keys: list[str]) -> None:
        if model.run is None and not (model.folder / "manifest.json").is_file():
            files.write_json(model.folder / "manifest.json", _manifest_of(model))
        scorers = {scorer.name: scorer.about() for scorer in self.scorers}
        if (folder / "settings.json").is_file():  # an earlier evaluation by other scorers stays in the table
            earlier = files.read_json(folder / "settings.json")["scorers"]
            fit = [scorer for scorer in earlier if all(scorer["fingerprint"] in self.store.scores(key) for key in keys)]
            scorers = {scorer["name"]: scorer for scorer in fit} | scorers
        about = {"scorers": list(scorers.values()), "cut_prompts": self.cut, "model": model.fingerprint}
        write_table(folder, self.drawings, keys, list(scorers.values()), self.store, self.categories)
        files.write_json(folder / "settings.json", self.settings | self.named | about)


def _manifest_of(model: EvaluatedModel) -> dict[str, Any]:
    """What the comparison reads of a model that is no run of ours."""
    kind = "base" if model.label == "base" else "other"
    weights = str(model.weights) if model.weights else None
    about = {"objective": {"name": kind}, "label": model.label, "seed": None}
    return {"status": "finished", **about, "model": model.config["model"], "weights": weights}


def _tell(cut: dict[str, int], total: int) -> None:
    """Say which readers see only the beginning of how many prompts."""
    if told := [f"{reader} cuts {count}" for reader, count in cut.items() if count]:
        print(f"Of {total} prompts some are longer than their readers take: {', '.join(told)}.")


def _print_means(folders: list[tuple[str, Path]], scorers: list[Scorer]) -> None:
    """Nothing where there is no scorer."""
    if not scorers:
        return
    table = Table("", *(scorer.name for scorer in scorers), title="mean scores")
    for label, folder in folders:
        with open(folder / "scores.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        means = [sum(float(row[scorer.name]) for row in rows) / len(rows) for scorer in scorers]
        table.add_row(label, *(f"{mean:.3f}" for mean in means))
    Console().print(table)
