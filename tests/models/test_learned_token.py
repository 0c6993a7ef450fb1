"""A learned token: only its two rows change, a run resumes to the bit, and diffusers draws the same from its files."""

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

from mapolab.config.compose import compose
from mapolab.errors import Interrupted, UserError
from mapolab.evaluation.generation import load_pipeline
from mapolab.evaluation.models import EvaluatedModel, find_models
from mapolab.export.command import export
from mapolab.models.learned_token import KEYS, TOKEN_FILE, learned_rows
from mapolab.models.lora import adapters_off
from mapolab.models.lora_files import LORA_FILE
from mapolab.models.prompts import encode_prompts
from mapolab.models.sdxl import SDXL
from mapolab.models.trained import load_trained
from mapolab.training.metrics import MetricsFile, StepMetrics
from mapolab.training.run import train

TOKEN, INITIAL = "<zib>", "x"
LORA = {
    "rank": 4, "alpha": 8.0, "dropout": 0.0, "dora": False, "text_encoders": True, "text_encoder_learning_rate": None,
    "target_modules": ["to_q", "to_v"], "text_encoder_target_modules": ["q_proj", "v_proj"],
    "learned_token": TOKEN, "token_initial": INITIAL, "token_learning_rate": 1e-2,
}  # fmt: skip
ALONE = LORA | {"text_encoders": False}
DPO = {"name": "diffusion_dpo", "beta": 2000.0}


@pytest.fixture(scope="module")
def config(module_config: dict[str, Any], make_pairs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """DPO with adapters everywhere and a token, which half of the captions hold."""
    folder = tmp_path_factory.mktemp("token")
    rows = [row | {"caption": row["caption"].replace("fox", TOKEN).replace("boats", TOKEN)} for row in make_pairs(10)]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    changed = copy.deepcopy(module_config) | {"output_dir": str(folder / "run"), "objective": DPO}
    changed["data"] |= {"cache": False, "path": str(folder / "pairs.parquet")}
    changed["model"]["lora"] = LORA
    return changed


@pytest.fixture(scope="module")
def run(config: dict[str, Any]) -> Path:
    return train(config)


def changed(config: dict[str, Any], folder: Path, **blocks: Any) -> dict[str, Any]:
    found = copy.deepcopy(config) | {"output_dir": str(folder)}
    return found | {name: found[name] | block for name, block in blocks.items()}


def saved(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "lora" / LORA_FILE) | load_file(run / "lora" / TOKEN_FILE)


def draw(pipeline: StableDiffusionXLPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    prompts = [f"a {TOKEN}", f"{TOKEN} o"]
    pictures = pipeline(prompts, height=16, width=16, num_inference_steps=4, generator=generator, output_type="np")
    return torch.from_numpy(pictures.images * 255).round()


def of_run(run: Path) -> torch.Tensor:
    (model,) = find_models([str(run)], run.parent)
    return draw(load_pipeline(model))


def loaded_by_diffusers(base: str, folder: Path) -> StableDiffusionXLPipeline:
    """As docs/personalization.md says it."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    pipeline.load_lora_weights(folder)
    rows = load_file(folder / TOKEN_FILE)
    for key, encoder, tokenizer in (
        ("clip_l", pipeline.text_encoder, pipeline.tokenizer),
        ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2),
    ):
        pipeline.load_textual_inversion(rows[key], token=TOKEN, text_encoder=encoder, tokenizer=tokenizer)
    return pipeline


@pytest.mark.parametrize("lora", [LORA, ALONE], ids=["with adapters", "alone"])
def test_of_the_text_encoders_only_the_rows_and_adapters_are_trained(config, lora):
    model = config["model"] | {"lora": lora}
    trained = load_trained(SDXL.from_config(model), model, seed=0)
    rows = list(learned_rows(trained.text.models))
    assert [tuple(row.shape) for row in rows] == [(1, 8), (1, 16)]
    named = [name for encoder in trained.text.models for name, item in encoder.named_parameters() if item.requires_grad]
    assert all(".lora_" in name or name.endswith("token_embedding.learned") for name in named)
    assert any(".lora_" in name for name in named) == lora["text_encoders"]
    *_, last = trained.parameter_groups()
    assert last["lr"] == 1e-2 and [id(item) for item in last["params"]] == [id(row) for row in rows]
    embeds, pooled = encode_prompts(trained.text, [f"a {TOKEN}", "a q"])
    (embeds[1].square().sum() + pooled[1].square().sum()).backward()
    assert all(row.grad.abs().sum() == 0 for row in rows)  # a prompt without the token
    embeds, pooled = encode_prompts(trained.text, [f"a {TOKEN}"])
    (embeds.square().sum() + pooled.square().sum()).backward()
    assert all(row.grad.abs().sum() > 0 for row in rows)


def test_the_rates(config):
    def last_group(**changes: Any) -> dict[str, Any]:
        model = config["model"] | {"lora": LORA | {"token_learning_rate": None} | changes}
        return load_trained(SDXL.from_config(model), model, seed=0).parameter_groups()[-1]

    assert last_group(text_encoder_learning_rate=3e-4)["lr"] == 3e-4
    assert "lr" not in last_group()


@pytest.mark.parametrize("legacy", [False, True], ids=["pooled at the end", "pooled at the highest id"])
def test_the_reference_reads_the_initial_word_through_the_untouched_encoders(config, legacy):
    sdxl = SDXL.from_config(config["model"])
    trained = load_trained(sdxl, config["model"], seed=0)
    original = sdxl.load_text_encoders()
    if legacy:  # as the config of SDXL's second encoder has it; the token's id is the highest then
        for encoder in (trained.text.models[1], original.models[1]):
            getattr(encoder, "text_model", encoder).eos_token_id = 2
    with torch.no_grad():
        for encoder in trained.text.models:
            for item in encoder.parameters():
                if item.requires_grad:
                    item.add_(torch.randn_like(item))
        expected = encode_prompts(original, [f"a {INITIAL} o", "a q"])
        with adapters_off(*trained.text.models):
            found = encode_prompts(trained.text, [f"a {TOKEN} o", "a q"])
        after = encode_prompts(trained.text, [f"a {TOKEN} o", "a q"])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(after, expected, strict=True))


def test_a_run_starts_at_its_reference_and_moves_the_rows(run, config):
    losses = [float(row["loss"]) for row in MetricsFile(run / "metrics.csv").rows()]
    assert losses[0] == pytest.approx(0.693147, abs=1e-6) and losses[-1] != pytest.approx(0.693147, abs=1e-5)
    rows = load_file(run / "lora" / TOKEN_FILE)
    assert {name: tuple(row.shape) for name, row in rows.items()} == {"clip_l": (1, 8), "clip_g": (1, 16)}
    text = SDXL.from_config(config["model"]).load_text_encoders()
    for key, tokenizer, encoder in zip(KEYS, text.tokenizers, text.models, strict=True):
        start = encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(f"{INITIAL}</w>")]
        assert 0 < (rows[key][0] - start).abs().max() <= 6.1e-2  # six steps of Adam at 1e-2


def test_an_interrupted_run_ends_with_the_same_bits(run, config, tmp_path, monkeypatch):
    write = StepMetrics._write

    def write_and_interrupt(self: StepMetrics, trainer: Any, number: int) -> None:
        write(self, trainer, number)
        if number == 2:
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StepMetrics, "_write", write_and_interrupt)
    with pytest.raises(Interrupted):
        train(changed(config, tmp_path / "again"))
    expected, found = saved(run), saved(train(changed(config, tmp_path / "again")))
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_diffusers_opens_it_and_draws_the_same(run, config):
    pipeline = loaded_by_diffusers(config["model"]["pretrained"], run / "lora")
    assert torch.equal(draw(pipeline), of_run(run))
    assert not torch.equal(draw(StableDiffusionXLPipeline.from_pretrained(config["model"]["pretrained"])), of_run(run))


def test_without_adapters_of_the_text_encoders_and_with_an_average(config, tmp_path):
    trainer = {"ema_decay": 0.9, "max_steps": 2}
    other = train(changed(config, tmp_path / "run", model={"lora": ALONE}, trainer=trainer))
    assert not any(name.startswith("text_encoder") for name in load_file(other / "lora" / LORA_FILE))
    assert torch.equal(draw(loaded_by_diffusers(config["model"]["pretrained"], other / "lora")), of_run(other))


def test_the_fingerprint_depends_on_the_token(run, config):
    (model,) = find_models([str(run)], run.parent)
    before = model.fingerprint
    file = run / "lora" / TOKEN_FILE
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        again = EvaluatedModel(model.label, model.seed, model.folder, model.config, model.weights, model.run)
        assert again.fingerprint != before
    finally:
        file.write_bytes(content)


def test_every_export_with_the_token(run, config, tmp_path, capsys):
    def exported(name: str, formats: str) -> Path:
        return export(compose("export", [f"run={run}", f"to={tmp_path / name}", f"formats=[{formats}]"]))

    whole = StableDiffusionXLPipeline.from_pretrained(exported("whole", "pipeline"))
    # Adapters that are merged round once more, which may tip a pixel by one level.
    difference = (draw(whole) - of_run(run)).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01
    assert not (tmp_path / "whole" / TOKEN_FILE).exists()
    adapters = exported("adapters", "lora,kohya,single_file")
    assert torch.equal(draw(loaded_by_diffusers(config["model"]["pretrained"], adapters)), of_run(run))
    told = capsys.readouterr().out
    assert "kohya, the learned token <zib>: the file cannot hold it" in told
    assert 'load_textual_inversion(rows["clip_l"], token="<zib>"' in (adapters / "README.md").read_text()
    single = load_file(adapters / "adapters.safetensors")
    name = "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight"
    assert len(single[name]) == len(StableDiffusionXLPipeline.from_pretrained(config["model"]["pretrained"]).tokenizer)
    with pytest.raises(UserError, match=r"formats=unet holds the UNet alone.*\[pipeline\] or \[lora\]"):
        exported("unet", "unet")


def test_the_exported_pipeline_is_the_run_to_the_pixel_where_nothing_is_merged(config, tmp_path):
    """Adapters that changed nothing yet: the token alone decides the picture."""
    frozen = {"_target_": "torch.optim.AdamW", "lr": 1e-30, "weight_decay": 0.0}
    other = train(changed(config, tmp_path / "run", optimizer=frozen, trainer={"max_steps": 2}))
    folder = export(compose("export", [f"run={other}", f"to={tmp_path / 'out'}", "formats=[pipeline]"]))
    assert torch.equal(draw(StableDiffusionXLPipeline.from_pretrained(folder)), of_run(other))


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"learned_token": "<sib>"}, "no caption of .* holds it"),
        ({"token_initial": "xy"}, r"token_initial=xy is not one token of the model's vocabulary but 2 \(x y</w>\)"),
        ({"learned_token": "x</w>"}, "in the model's vocabulary already"),
    ],
)
def test_what_does_not_fit_the_vocabulary_or_the_data(config, tmp_path, lora, said):
    with pytest.raises(UserError, match=said):
        train(changed(config, tmp_path, model={"lora": LORA | lora}))
