"""A whole SDXL pipeline with random weights, some kilobytes large, and a file of preference pairs to train it on."""

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

RESOLUTION = 16
TOKENS = 8
WIDTH = 8
CAPTIONS = ("a fox", "a red kite", "two boats", "rain")


def build_tokenizer(folder: Path, pad: str) -> CLIPTokenizer:
    """CLIP's tokenizer without merges: one token a character."""
    symbols = [chr(code) for code in range(33, 127)]
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return CLIPTokenizer(*files, model_max_length=TOKENS, pad_token=pad, **special)


def build_text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_unet(channels: tuple[int, int] = (8, 16)) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=RESOLUTION // 2,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2),
        transformer_layers_per_block=1,
        cross_attention_dim=3 * WIDTH,
        use_linear_projection=True,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=2 * WIDTH + 6 * 4,
    )


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        scaling_factor=0.5,
    )


def build_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    """Random weights from a fixed seed. The text encoders differ in width, as SDXL's do."""
    tokenizers = build_tokenizer(folder, "<|endoftext|>"), build_tokenizer(folder, "!")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StableDiffusionXLPipeline(
            vae=build_vae(),
            text_encoder=CLIPTextModel(build_text_config(tokenizers[0], WIDTH)),
            text_encoder_2=CLIPTextModelWithProjection(build_text_config(tokenizers[1], 2 * WIDTH)),
            tokenizer=tokenizers[0],
            tokenizer_2=tokenizers[1],
            unet=build_unet(),
            scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
            add_watermarker=False,
        )


def encoded_image(seed: int, size: tuple[int, int]) -> bytes:
    """A PNG of random colours, (width, height) = size."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def pair_rows(count: int) -> list[dict[str, Any]]:
    """Pick-a-Pic rows; images of different sizes, captions and some images repeated, and one tie at the end."""
    rows = [
        {
            "caption": CAPTIONS[index % len(CAPTIONS)],
            "jpg_0": encoded_image(2 * index % 10, (20, 16)),
            "jpg_1": encoded_image(2 * index + 1, (16 + index % 3, 24)),
            "label_0": float(index % 2),
            "image_0_uid": f"first-{index}",
            "image_1_uid": f"second-{index}",
        }
        for index in range(count)
    ]
    return [*rows, {**rows[0], "label_0": 0.5}]


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved StableDiffusionXLPipeline."""
    folder = tmp_path_factory.mktemp("tiny_pipeline")
    build_pipeline(tmp_path_factory.mktemp("tokenizer")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_image() -> Callable[[int, tuple[int, int]], bytes]:
    """`encoded_image`."""
    return encoded_image


@pytest.fixture(scope="session")
def make_pairs() -> Callable[[int], list[dict[str, Any]]]:
    """`pair_rows`, for tests that change some of the rows."""
    return pair_rows


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet file with 10 pairs and a tie."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    parquet.write_table(pa.Table.from_pylist(pair_rows(10)), file)
    return file


@pytest.fixture
def train_config(tiny_pipeline_folder: Path, pairs_file: Path, tmp_path: Path) -> dict[str, Any]:
    """A resolved config of 6 steps of MaPO on the random pipeline; tests change what they are about."""
    return build_train_config(tiny_pipeline_folder, pairs_file, tmp_path)


@pytest.fixture(scope="module")
def module_config(
    tiny_pipeline_folder: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The same for runs that several tests look at; to be copied, not changed."""
    return build_train_config(tiny_pipeline_folder, pairs_file, tmp_path_factory.mktemp("module"))


def build_train_config(tiny_pipeline_folder: Path, pairs_file: Path, tmp_path: Path) -> dict[str, Any]:
    """See `train_config`."""
    return {
        "name": "test",
        "task": "align",
        "seed": 3,
        "output_root": str(tmp_path / "outputs"),
        "output_dir": None,
        "model": {
            "pretrained": str(tiny_pipeline_folder),
            "revision": None,
            "variant": None,
            "single_file_config": str(tiny_pipeline_folder),
            "vae": None,
            "vae_revision": None,
            "vae_dtype": "auto",
            "encoder_dtype": "float32",
            "trained_dtype": "float32",
            "frozen_dtype": "float32",
            "lora": None,
            "reference": "auto",
            "reference_dtype": "float32",
            "reference_ema_decay": 0.999,
            "reference_refresh_every": 100,
            "gradient_checkpointing": False,
            "channels_last": False,
            "compile": False,
        },
        "diffusion": {
            "prediction_type": "auto",
            "zero_terminal_snr": "auto",
            "timestep_range": None,
            "timestep_weighting": "none",
            "min_snr_gamma": 5.0,
            "noise": "gaussian",
            "inversion_steps": 10,
            "inversion_noise": 0.0,
        },
        "data": {
            "path": str(pairs_file),
            "split": None,
            "validation_path": None,
            "validation_split": None,
            "revision": None,
            "preferred_style": None,
            "resolution": RESOLUTION,
            "aspect_buckets": False,
            "micro_conditioning": "fixed",
            "batch_size": 2,
            "num_workers": 0,
            "shuffle_window": "all",
            "cache": True,
            "cache_folder": None,
            "cache_dtype": "float32",
            "download_cache_gb": 1.0,
            "vae_posterior": "mean",
            "flip_probability": 0.0,
            "prompt_dropout": 0.0,
            "ties": "drop",
            "weights": "none",
            "label_flip_probability": 0.0,
            "label_noise_probability": 0.0,
            "max_broken_share": 0.01,
            "allow_overlap": False,
        },
        "objective": {"name": "mapo", "beta": 8.0},
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "lr": 1e-3,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": 0.01,
            "fused": True,
        },
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "strategy": {"accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1, "options": {}},
        "trainer": {
            "max_steps": 6,
            "gradient_accumulation": 2,
            "gradient_clip_norm": 1.0,
            "precision": "32-true",
            "checkpoint_every": 2,
            "keep_checkpoints": 2,
            "checkpoint_in_background": False,
            "validate_every": None,
            "validation_pairs": 256,
            "keep_best": None,
            "log_every": 1,
            "ema_decay": None,
            "ema_on_cpu": False,
            "progress": "off",
        },
        "preemption": {"requeue": True, "max_requeues": 100, "save_before_limit": 120.0},
        "evaluation": {"prompts": None, "split": None, "revision": None},
        "logger": {},
        "rollout": None,
        "tiny_base": None,
    }


@pytest.fixture
def reliability(request: pytest.FixtureRequest) -> Callable[[str, str, str], None]:
    """reliability(fault, promised, seen): a row of docs/reliability.md, called when a test has seen what it says.

    Rows go to the folder that RELIABILITY_ROWS names; `scripts/reliability.py` makes the table of them.
    """

    def note(fault: str, promised: str, seen: str) -> None:
        if folder := os.environ.get("RELIABILITY_ROWS"):
            row = {"fault": fault, "promised": promised, "seen": seen, "test": request.node.nodeid}
            name = re.sub(r"\W+", "_", request.node.nodeid + fault)[-150:]
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{name}.json").write_text(json.dumps(row))

    return note
