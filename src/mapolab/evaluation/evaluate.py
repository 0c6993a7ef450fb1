"""``mapolab evaluate models=[...]``: draw the prompts with every model and score the pictures."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mapolab import files
from mapolab.config.environment_values import hidden
from mapolab.errors import UserError
from mapolab.evaluation.model_names import BASE
from mapolab.evaluation.models import EvaluatedModel, base_of, find_models
from mapolab.evaluation.options import check_settings, drawings_of, load_prompts, options_for, settings_of
from mapolab.evaluation.processes import Processes, start_processes
from mapolab.evaluation.progress import progress_bar
from mapolab.evaluation.prompt_lengths import cut_by_models, cut_by_scorers, tell_cut
from mapolab.evaluation.prompt_table import PromptRow
from mapolab.evaluation.saved import ScorerAbout, read_settings
from mapolab.evaluation.scorers.registry import build_scorers
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scores_table import FILE, read_scores
from mapolab.evaluation.scoring import IMAGES, score_pictures, table_of
from mapolab.evaluation.store import Store
from mapolab.output import LOCK, MODEL, Lock, OutputFolder, check_inside
from mapolab.run_files import with_checksum
from mapolab.texts import rich_text, say


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
    check_settings(options, [model.sdxl for model in everyone])
    for model in everyone:
        model.check()
    rows = load_prompts(options, output_root / ".cache")
    prompts = [row.prompt for row in rows]
    processes = start_processes(config.get("devices") or "auto")
    scorers = build_scorers(options["scorers"], options["target_style"], processes.device)
    settings = settings_of(options, prompts, everyone, on_gpu=processes.device != "cpu")
    cut = cut_by_models(everyone, prompts, settings) | cut_by_scorers(scorers, prompts)
    store = Store(Path(config.get("store") or output_root / ".store"))
    for model in everyone:
        if model.run is None:
            OutputFolder(model.folder, MODEL).check()
        check_inside(model.folder, model.folder / "evaluation")
    if processes.rank == 0:
        store.sweep()
        tell_cut(cut, len(prompts))
    shown = hidden(options, config, *(model.run for model in models if model.run is not None))
    work = Evaluation(settings, options, rows, scorers, store, processes, cut, shown)
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
        rows: list[PromptRow],
        scorers: list[Scorer],
        store: Store,
        processes: Processes,
        cut: dict[str, int],
        shown: dict[str, Any],
    ) -> None:
        self.settings, self.rows, self.scorers, self.store = settings, rows, scorers, store
        self.drawings = drawings_of([row.prompt for row in rows], settings)
        self.processes, self.group, self.cut = processes, options["batch_size"], cut
        # Under which names the prompts were found; what they are is in the settings' hash.
        self.named = {key: shown[key] for key in ("prompts", "split", "revision", "limit") if shown[key] is not None}

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
                say(f"{model.name}: {drawn} of {len(keys)} pictures drawn, {scored} scores computed")
        self.processes.barrier()
        return folder

    def _write(self, model: EvaluatedModel, folder: Path, keys: list[str]) -> None:
        if model.run is None:  # again, since the model may have another name now
            files.write_json(model.folder / "manifest.json", with_checksum(_manifest_of(model), "manifest"))
        check_inside(model.folder, folder / IMAGES)
        files.make_folder(folder / IMAGES)
        lock = Lock(folder / LOCK)
        lock.acquire(wait=True)  # for others that add their scorers
        try:
            for one in (folder, folder / IMAGES):
                files.sweep(one)
            self._write_alone(model, folder, keys)
        finally:
            lock.release()

    def _write_alone(self, model: EvaluatedModel, folder: Path, keys: list[str]) -> None:
        scorers = {scorer.name: scorer.about() for scorer in self.scorers}
        scorers = {scorer["name"]: scorer for scorer in self._earlier(folder, keys)} | scorers
        about = {"scorers": list(scorers.values()), "cut_prompts": self.cut, "model": model.fingerprint}
        table = table_of(folder, self.rows, self.drawings, keys, list(scorers.values()), self.store)
        noted = {FILE: hashlib.sha256(table.encode()).hexdigest()}
        settings = files.json_text(with_checksum(self.settings | self.named | about, "settings", **noted))
        # The table makes the evaluation: where it is, the settings beside it are those of its columns.
        files.write_together(folder, {"settings.json": settings, FILE: table})

    def _earlier(self, folder: Path, keys: list[str]) -> list[ScorerAbout]:
        """An earlier evaluation by other scorers stays in the table, where the store has its scores."""
        if not (folder / "settings.json").exists():
            return []
        try:
            earlier = read_settings(folder)["scorers"]
        except UserError as error:
            names = ", ".join(scorer.name for scorer in self.scorers) or "none"
            say(f"{error} So it does now, with the scorers of this command alone: {names}.")
            return []
        return [
            scorer for scorer in earlier if all(scorer.get("fingerprint") in self.store.scores(key) for key in keys)
        ]


def _manifest_of(model: EvaluatedModel) -> dict[str, Any]:
    """What the comparison reads of a model that is no run of ours."""
    kind = "base" if model.label == BASE else "other"
    weights = str(model.weights) if model.weights else None
    about = {"objective": {"name": kind}, "label": model.label, "seed": None}
    return {"status": "finished", **about, "model": model.config["model"], "weights": weights}


def _print_means(folders: list[tuple[str, Path]], scorers: list[Scorer]) -> None:
    """Nothing where there is no scorer."""
    if not scorers:
        return
    table = Table("", title="mean scores")
    for scorer in scorers:
        table.add_column(rich_text(scorer.name))
    for label, folder in folders:
        means = read_scores(folder).means()
        table.add_row(rich_text(label), *(f"{means[scorer.name]:.3f}" for scorer in scorers))
    Console().print(table)
