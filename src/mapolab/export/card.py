"""The model card: what the model is, how it was made, how it scored, under which licence it may be used."""

from pathlib import Path
from typing import Any

import yaml

from mapolab.evaluation.saved import read_base, read_settings
from mapolab.evaluation.scores_table import FILE, read_scores
from mapolab.models.hub import is_hub_name
from mapolab.models.learned_token import KEYS, TOKEN_FILE, learned_token
from mapolab.texts import markdown

LICENSES = {"stabilityai/stable-diffusion-xl-base-1.0": "openrail++", "builtin:tiny_twin": "apache-2.0"}
USE = {
    # With a dtype, since without one diffusers leaves the text encoders in the file's and has the UNet in float32.
    "pipeline": 'StableDiffusionXLPipeline.from_pretrained("<this folder>", dtype=torch.{dtype})',
    "unet": 'UNet2DConditionModel.from_pretrained("<this folder>", subfolder="unet", dtype=torch.{dtype})',
    "lora": 'pipeline.load_lora_weights("<this folder>")',
    "kohya": "the file ending in .kohya.safetensors goes into the LoRA folder of ComfyUI or A1111",
    "single_file": 'StableDiffusionXLPipeline.from_single_file("<the file>", dtype=torch.{dtype}), or the checkpoint '
    "folder of a UI",
}


def model_card(
    run: Path,
    config: dict[str, Any],
    manifest: dict[str, Any],
    formats: list[str],
    license_name: str | None,
    dtype: str,
) -> str:
    """README.md of an export in `dtype`, with the front matter that the hub reads. license_name: None: that of a known
    base."""
    model, data, trainer, objective, schedule, optimizer = (
        config.get(key) or {} for key in ("model", "data", "trainer", "objective", "schedule", "optimizer")
    )
    base = model["pretrained"]
    known = license_name or LICENSES.get(base)
    front: dict[str, Any] = {"license": known or "other", "library_name": "diffusers", "pipeline_tag": "text-to-image"}
    if is_hub_name(base) and not Path(base).exists():
        front["base_model"] = base
    front["tags"] = ["stable-diffusion-xl", "preference-optimization", objective["name"]]
    rollout = config.get("rollout")  # runs from before it have none
    learned_from = "rewards of its own pictures" if rollout else "preference pairs"
    version = (manifest.get("versions") or {}).get("mapolab") or "of an unknown version"
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {markdown(config.get('name') or 'a run')}: {markdown(manifest['label'])}",
        f"A Stable Diffusion XL aligned with {learned_from} by mapolab {markdown(str(version))}.",
        "## Use",
        *(f"- {name}: {USE[name].format(dtype=dtype)}" for name in formats),
        *token_use(config, formats),
        "## How it was made",
        _table(
            {
                "base model": f"{base} {model.get('revision') or ''}".strip(),
                "data": " ".join(str(data[key]) for key in ("path", "split", "revision") if data.get(key)),
                "objective": _settings(objective),
                **({"rollout": _settings(rollout)} if rollout else {}),
                "trained": f"LoRA ({_settings(model['lora'])})" if model.get("lora") else "all of the UNet",
                "optimizer": _settings(optimizer),
                "schedule": _settings(schedule),
                "steps": trainer.get("max_steps"),
                "pairs a forward pass, accumulation": f"{data['batch_size']}, {trainer['gradient_accumulation']}",
                "resolution": f"{data.get('resolution')} px",
                "precision": trainer.get("precision"),
                "seed": config.get("seed"),
                "notes": "; ".join(manifest.get("notes") or []) or "none",
            }
        ),
        "The run's whole config is in `run_config.yaml`, its versions, hardware and timings in `run_manifest.json`.",
        "## Scores",
        _scores(run),
        "## Licence",
        f"{markdown(known)}."
        if known
        else f"The licence of the base model, {markdown(base)}, applies; it is not known to mapolab.",
    ]
    return "\n\n".join(lines).replace("\n\n- ", "\n- ") + "\n"


def token_use(config: dict[str, Any], formats: list[str]) -> list[str]:
    """How each format comes to a learned token, a line each; none for a run without one."""
    token = learned_token(config["model"].get("lora"))
    if token is None:
        return []
    name = token.strip("<>")
    calls = [
        f'pipeline.load_textual_inversion(rows["{key}"], token="{token}", '
        f"text_encoder=pipeline.text_encoder{end}, tokenizer=pipeline.tokenizer{end})"
        for key, end in zip(KEYS, ("", "_2"), strict=True)
    ]
    load = "; ".join([f'rows = load_file("<this folder>/{TOKEN_FILE}")', *calls])
    lacks = (
        f"the file cannot hold it; copy {TOKEN_FILE} into the UI's folder of embeddings as {name}.safetensors and "
        f"write {name} (ComfyUI: embedding:{name}) in its place, which we have not tried"
    )
    told = {"pipeline": "in the tokenizers and text encoders", "lora": load, "unet": load}
    return [f"- {one}, the learned token {token}: {told.get(one, lacks)}" for one in formats]


def _settings(block: dict[str, Any]) -> str:
    """`mapo, beta 8`: a block's own name or class first."""
    first = str(block.get("name") or block.get("_target_", "")).split(".")[-1]
    rest = [f"{key} {value}" for key, value in block.items() if key not in ("name", "_target_") and value is not None]
    return ", ".join([*([first] if first else []), *rest])


def _scores(run: Path) -> str:
    """A table for each evaluation of the run, beside its base's where that was evaluated alike."""
    tables = []
    for evaluation in sorted(file.parent for file in run.glob(f"evaluation/*/{FILE}")):
        settings = read_settings(evaluation)
        columns = {"this model": read_scores(evaluation).means()}
        if base := read_base(run, evaluation):
            columns["base"] = read_scores(base / "evaluation" / evaluation.name).means()
        about = (
            f"Means over {settings['prompt_count']} prompts, {settings['steps']} steps, guidance "
            f"{settings['guidance_scale']}, seed {settings['seed']}."
        )
        rows = [
            "| " + " | ".join([markdown(name), *(_score(means, name) for means in columns.values())]) + " |"
            for name in columns["this model"]
        ]
        head = ["| scorer | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        tables.append("\n".join([about, "", *head, *rows]))
    return "\n\n".join(tables) or "The run was not evaluated."


def _score(means: dict[str, float], scorer: str) -> str:
    """Blank where the base was not judged by this scorer."""
    return f"{means[scorer]:.3f}" if scorer in means else ""


def _table(values: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {markdown(str(value))} |" for key, value in values.items())])
