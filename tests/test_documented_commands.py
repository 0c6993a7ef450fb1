"""Every command that the documents show is run as it stands there, on a model and pairs of some kilobytes.

The list is read from the documents, so a command that is added to them is tested too. What a command names and this
machine does not have (SDXL, published data, judges of the hub) is replaced behind it, where the last override wins.
"""

import contextlib
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from mapolab import cli
from mapolab.config.compose import compose
from mapolab.config.schema import TRAIN_LIKE
from mapolab.evaluation.evaluate import evaluate
from mapolab.files import short_hash
from mapolab.sweeps.folder import Job, SweepFolder
from mapolab.sweeps.slurm import preflight
from mapolab.training.run import train

ROOT = Path(__file__).parents[1]
RUN = "mapo-seed0-1a2b3c4d"
NAMED = {"<run name>": RUN, "<run>": f"outputs/pick/{RUN}", "<sweep name>": "objective+seed-1a2b3c4d"}
PLACEHOLDERS = {"$SLURM_ARRAY_TASK_ID": "0", "models=[...]": f"models=outputs/pick/{RUN}"}
# Of every run that is trained here: one step of one pair.
SMALL = [
    "model.revision=null", "model.reference_dtype=float32",
    "model.encoder_dtype=float32", "model.frozen_dtype=float32", "data.split=null", "data.revision=null",
    "data.validation_split=null", "data.resolution=16", "data.batch_size=1", "data.num_workers=0",
    "trainer.max_steps=1", "trainer.gradient_accumulation=1", "trainer.precision=32-true", "trainer.progress=off",
    "strategy=single", "strategy.devices=1", "strategy.accelerator=cpu", "evaluation.prompts=prompts.txt",
    "evaluation.split=null", "evaluation.revision=null", "evaluation.limit=1", "evaluation.steps=1",
    "evaluation.height=16", "evaluation.width=16", "evaluation.images_per_prompt=1", "evaluation.scorers=[jpeg_size]",
    "output_root=trained", "data.cache_folder=cache", "data.allow_overlap=true",
]  # fmt: skip
HERE = ["model.pretrained=model", "data.path=pairs.parquet"]
ROLLOUT = [
    "rollout.rewards=[jpeg_size]", "rollout.samples=2", "rollout.images_per_prompt=1", "rollout.steps=2",
    "rollout.timestep_fraction=0.5", "rollout.guidance_scale=1",
]  # fmt: skip
DRAWN = ["limit=2", "steps=1", "height=16", "width=16", "batch_size=2"]
JUDGED = ["ranked_by=[jpeg_size]", "label_scale=1", "images_per_prompt=2"]
# Of each command, beside that: what is asked of judges and sets that are on the hub.
BEHIND = {
    "mismatch": ["pairs=2", "features=efficientnet_lite0"],
    "evaluate": [*DRAWN, "prompts=prompts.txt", "scorers=[jpeg_size]"],
    "iterate": ["rounds=1", "limit=2", *JUDGED, "prompts=prompts.txt", "evaluation.after_training=false"],
    "compare": ["different_settings=true"],
}


def documented() -> Iterator[str]:
    """Each command of the blocks of code, continued lines joined, and of the help."""
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"):
        text = re.sub(r"\\\n\s*", "", file.read_text(encoding="utf-8"))
        fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        indented = re.findall(r"^ {4}(mapolab .*)$", text, flags=re.MULTILINE)
        lines = [line for block in fenced for line in block.splitlines()]
        yield from (line for line in (*lines, *indented) if line.startswith("mapolab "))
    yield from (_without_remark(line) for line in re.findall(r"^ +(mapolab [a-z].*)$", cli.HELP, flags=re.MULTILINE))


def _without_remark(line: str) -> str:
    """A line of the help up to the words that explain it."""
    command, name, *rest = re.sub(r"  +", "  ", line).split(" ")
    kept = [word for word in rest if word]
    end = next(
        (at for at, word in enumerate(kept) if "=" not in word and "/" not in word and word not in ("-m", "...")), None
    )
    return " ".join([command, name, *kept[:end]])


COMMANDS = list(dict.fromkeys(" ".join(line.partition(" #")[0].split()) for line in documented()))


def test_all_documents_were_read() -> None:
    assert len(COMMANDS) > 50
    assert {line.split()[1] for line in COMMANDS} == {*cli.COMMANDS, "status"}


@pytest.fixture(scope="module")
def place(tiny_pipeline_folder: Path, pairs_file: Path, make_image, make_pairs, tmp_path_factory) -> Path:
    """A folder with what the commands name: evaluated runs, prompts, pairs, pictures of a dog, votes, a sweep."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("prompts.txt", "my.txt"):
        (folder / name).write_text("a horse\na hen\n")
    for name in ("my_dog", "data/my_dog"):
        (folder / name).mkdir(parents=True)
        (folder / name / "beach.png").write_bytes(make_image(1, (16, 16)))
        (folder / name / "captions.csv").write_text("name,caption\nbeach.png,a <dog> on a beach\n")
    shutil.copytree(tiny_pipeline_folder, folder / "model")
    shutil.copy(pairs_file, folder / "pairs.parquet")
    rows = [row | {"caption": "a <subject>"} for row in make_pairs(4)]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "subject.parquet")
    with contextlib.chdir(folder):
        settings = ["experiment=blank", "name=x", *SMALL, *HERE]
        run = train(compose("train", [*settings, "data.cache=true", f"output_dir=outputs/pick/{RUN}"]))
        for other in ("emoji_style", "emoji_personalization", "mine"):
            shutil.copytree(run, f"outputs/{other}/{RUN}")
        train(compose("train", [*settings, "data.cache=true", "seed=1", "output_dir=outputs/pick/mapo-seed0-1a2b"]))
        train(compose("train", ["model=sdxl_lora", *settings, f"output_dir=outputs/my_dog/{RUN}"]))
        others = "{name: mapo-published, pretrained: model}"
        evaluate(compose("evaluate", [f"models=['outputs/*/*',{others}]", *BEHIND["evaluate"]]))
        (folder / "votes.jsonl").write_text(json.dumps(vote(Path("outputs/pick", RUN))))
        SweepFolder(Path("outputs/sweeps/objective+seed-1a2b3c4d")).add([Job(0, ["train", "seed=0"], run)])
    return folder


def vote(run: Path) -> dict[str, object]:
    """As the report's page exports one, on two of a run's pictures."""
    voted: dict[str, object] = {"caption": "a horse", "created_at": "2026-01-01T00:00:00.000Z", "user_id": 0}
    for side, file in enumerate(sorted(run.glob("evaluation/*/images/*"))[:2]):
        voted |= {
            f"image_{side}_uid": hashlib.sha256(file.read_bytes()).hexdigest()[:32],
            f"image_{side}_url": f"{run.name}/{file.relative_to(run).as_posix()}",
            f"jpg_{side}": None, f"model_{side}": f"m{side}", f"label_{side}": 1 - side,
        }  # fmt: skip
    return voted


# These start processes of their own.
SEVERAL = re.compile(r"mapolab iterate|hydra/launcher=(processes|ray)")
MARKED = [
    pytest.param(line, marks=[pytest.mark.slow] if SEVERAL.search(line) else [], id=line[:90]) for line in COMMANDS
]


@pytest.mark.parametrize("line", MARKED)
def test_the_command_does_what_the_document_says(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(preflight, "_nodes_are_here", lambda: True)  # a folder for temporary files is refused else
    code = cli.main(adapted(line))
    assert code == 0, capsys.readouterr().err


def adapted(line: str) -> list[str]:
    """The command's arguments, with what stands in for words in brackets and for what is not here."""
    for name, there in (NAMED | PLACEHOLDERS).items():
        line = line.replace(name, there)
    command, *given = [word for word in shlex.split(line)[1:] if word != "..." and not word.endswith("=...")]
    if command == "status" or "--cfg" in given:
        return [command, *given]
    added = list(BEHIND.get(command, []))
    if command in TRAIN_LIKE and not any(word.startswith("run=") for word in given):
        added += [*SMALL, *(HERE if command != "iterate" else HERE[:1])]
        added += ROLLOUT if "ddpo" in line else []
        if "experiment=personalization" in given:
            added += ["model.lora.token_initial=d", "data.path=subject.parquet"]
    if command == "evaluate" and "published:" in line:
        added.append("models=[model,outputs/pick/mapo-seed0-1a2b]")
    if command == "make-pairs":
        added += pairs_behind(given)
    if any(word in ("-m", "--sbatch") or word.startswith("sweep=") for word in given):
        given, behind = sweep(given)
        added += behind
    if command == "export":
        shutil.rmtree(next(word for word in given if word.startswith("to="))[3:], ignore_errors=True)
    return [command, *given, *added]


def pairs_behind(given: list[str]) -> list[str]:
    """What make-pairs needs, by its recipe, that is not here as the document names it."""
    (recipe,) = (word.removeprefix("recipe=") for word in given if word.startswith("recipe="))
    models = "[model,outputs/pick/mapo-seed0-1a2b3c4d]" if recipe == "models" else "model"
    behind = [f"output_dir=data/{short_hash(given)}"]
    if recipe == "smoothed":
        return [*behind, *JUDGED[:2], "data_path=pairs.parquet", "split=null", "batch_size=2"]
    if recipe == "votes":
        return behind
    behind += [*DRAWN, f"models={models}"]
    if recipe == "targets":
        return [word for word in behind if not word.startswith("limit=")]
    return [*behind, "prompts=prompts.txt", *(JUDGED if recipe == "ranked" else [])]


def sweep(given: list[str]) -> tuple[list[str], list[str]]:
    """Jobs on this machine: the first of them alone. Others: all of them are checked, and Slurm's script is written."""
    if "hydra/launcher=processes" in given or "hydra/launcher=ray" in given:
        first = [re.sub(r"^(objective|seed)=(\w+),.*", r"\1=\2", word) for word in given]
        return [word for word in first if not word.startswith("hydra.launcher.")], []
    behind = ["hydra.sweeper.trials=2"] if "hydra/sweeper=optuna" in given or "sweep=mapo_beta" in given else []
    if "sweep=lr_by_objective" in given:
        behind.append("hydra.sweeper.parallel=100")
    if "--sbatch" in given:
        return given, behind
    return given, [*behind, "hydra/launcher=slurm", "hydra.launcher.submit=false"]
