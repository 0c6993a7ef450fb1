"""Combinations of model, precision, optimizer and strategy that cannot work, each with what to change."""

import math
import os
import re
import shutil
from typing import Any

from mapolab.errors import UserError

Config = dict[str, Any]
SHARDED = ("fsdp", "deepspeed")
MIXED = ("bf16-mixed", "16-mixed")
TOKEN = r"<[a-z0-9][a-z0-9_-]*>"


def check_model_settings(config: Config) -> None:
    """Raise UserError for the first combination that cannot work. Imports nothing heavy."""
    _check_lora(config)
    _check_trained_dtype(config)
    _check_reference(config)
    _check_sharding(config)
    _check_diffusion(config["diffusion"])


def check_compiler(config: Config) -> None:
    """What is compiled at run time has something to be compiled with."""
    wanted = [key for key in ("CXX", "CC") if os.environ.get(key)]
    compilers = [os.environ[key] for key in wanted] or ["g++", "c++", "clang++", "gcc", "cc", "clang"]
    if any(shutil.which(name) for name in compilers):
        return
    for key, needs in (
        ("model.compile=true", config["model"]["compile"]),
        ("optimizer=adamw_bf16", config["optimizer"].get("bf16_stochastic_round")),
    ):
        if needs:
            raise UserError(
                f"{key} compiles code and needs a C++ compiler, but none of {', '.join(compilers)} is there. Install "
                "one (Debian: apt install g++), or leave that setting out."
            )


def check_precision(config: Config) -> None:
    """The precision exists on the hardware. Imports torch."""
    precision, accelerator = config["trainer"]["precision"], config["strategy"]["accelerator"]
    if precision == "bf16-mixed" and accelerator != "cpu" and _lacks_bfloat16():
        raise UserError(
            "trainer.precision=bf16-mixed needs an accelerator that computes in bfloat16, which this one does not "
            "(NVIDIA's do from Ampere on). Set trainer.precision=16-mixed, or 32-true."
        )
    if precision != "16-mixed":
        return
    if accelerator == "cpu" or not _has_gpu():
        raise UserError("trainer.precision=16-mixed needs a GPU. Use bf16-mixed or 32-true on a CPU.")
    if config["optimizer"].get("fused") and config["trainer"]["gradient_clip_norm"] is not None:
        raise UserError(
            "trainer.precision=16-mixed with a fused optimizer cannot clip gradients, because it unscales them inside "
            "its own step. Set optimizer.fused=false, or trainer.gradient_clip_norm=null, or use bf16-mixed."
        )


def _check_lora(config: Config) -> None:
    model, precision = config["model"], config["trainer"]["precision"]
    lora = model["lora"]
    if model["frozen_dtype"] != "float32" and lora is None:
        raise UserError(
            f"model.frozen_dtype={model['frozen_dtype']} is of the weights under a LoRA, but model.lora is null: all "
            "of the UNet is trained. Set model.frozen_dtype=float32, or use model=sdxl_lora."
        )
    if lora is None:
        return
    if model["frozen_dtype"] != "float32" and precision not in MIXED:
        raise UserError(
            f"model.frozen_dtype={model['frozen_dtype']} needs a mixed precision, which brings inputs and weights "
            f"together; trainer.precision is {precision}. Set trainer.precision=bf16-mixed, or "
            "model.frozen_dtype=float32."
        )
    if lora["text_encoders"] and config["data"]["cache"]:
        raise UserError(
            "model.lora.text_encoders=true encodes every prompt with weights that change, which a cache cannot hold. "
            "Set data.cache=false, or model.lora.text_encoders=false."
        )
    _check_token(lora, config["data"]["cache"])
    for key in ("rank", "alpha"):
        if not lora[key] > 0:
            raise UserError(f"model.lora.{key} is {lora[key]}; give a number above 0.")
    if not 0 <= lora["dropout"] < 1:
        raise UserError(f"model.lora.dropout is {lora['dropout']}; give a number from 0 to 1, without 1 itself.")
    for key in ("target_modules", "text_encoder_target_modules"):
        if not lora[key]:
            raise UserError(f"model.lora.{key} is empty. Name at least one layer, such as to_q or q_proj.")


def _check_token(lora: Config, cached: bool) -> None:
    token, initial, rate = (lora[key] for key in ("learned_token", "token_initial", "token_learning_rate"))
    if token is None:
        if initial is not None or rate is not None:
            raise UserError(
                "model.lora.token_initial and token_learning_rate are of a learned token, but there is none. Set "
                "model.lora.learned_token, such as '<fox>', or leave them null."
            )
        return
    if not re.fullmatch(TOKEN, token):
        raise UserError(
            f"model.lora.learned_token is {token!r}. Write it as a name in angle brackets, '<fox>', of small letters, "
            "digits, '-' and '_', so that it is part of no other word."
        )
    if not initial:
        raise UserError(
            f"model.lora.learned_token={token} needs a word to start from, such as the kind of thing that it is. Set "
            "model.lora.token_initial=cat."
        )
    if rate is not None and not 0 < rate < math.inf:
        raise UserError(f"model.lora.token_learning_rate is {rate}; give a positive number, such as 1e-4, or null.")
    if cached:
        raise UserError(
            f"model.lora.learned_token={token} encodes every prompt with an embedding that changes, which a cache "
            "cannot hold. Set data.cache=false, or model.lora.learned_token=null."
        )


def _check_trained_dtype(config: Config) -> None:
    model, rounds = config["model"], config["optimizer"].get("bf16_stochastic_round")
    pure = model["trained_dtype"] == "bfloat16"
    if pure and model["lora"] is not None:
        raise UserError("A LoRA is trained in float32 (it is small). Set model.trained_dtype=float32.")
    if pure and not rounds:
        raise UserError(
            "model.trained_dtype=bfloat16 needs an optimizer that rounds stochastically, or updates below 1/256 of a "
            "weight are lost. Set optimizer=adamw_bf16, or model.trained_dtype=float32."
        )
    if rounds and not pure:
        raise UserError(
            "optimizer=adamw_bf16 rounds bfloat16 weights, but the trained ones are float32. Set "
            "model.trained_dtype=bfloat16, or optimizer=adamw."
        )
    if pure and config["trainer"]["precision"] != "bf16-mixed":
        raise UserError("model.trained_dtype=bfloat16 computes in bfloat16. Set trainer.precision=bf16-mixed.")


def _check_reference(config: Config) -> None:
    model = config["model"]
    if model["reference"] == "lora_off" and model["lora"] is None:
        raise UserError(
            "model.reference=lora_off needs a LoRA to switch off, but all of the UNet is trained. Set "
            "model.reference=frozen_copy or offloaded_copy, or use model=sdxl_lora."
        )
    if model["reference"] not in ("ema", "refreshed"):
        return
    if config["strategy"]["strategy"] in SHARDED:
        raise UserError(
            f"model.reference={model['reference']} follows whole weights, which strategy="
            f"{config['strategy']['strategy']} divides over devices. Use model.reference=frozen_copy, or strategy=ddp."
        )
    if model["lora"] and (model["lora"]["text_encoders"] or model["lora"]["learned_token"]):
        raise UserError(
            f"model.reference={model['reference']} follows the UNet alone, but with model.lora.text_encoders or "
            "learned_token the text encoders change too. Use model.reference=lora_off, or set those to false and null."
        )


def _check_sharding(config: Config) -> None:
    strategy, trainer = config["strategy"], config["trainer"]
    name = strategy["strategy"]
    if name not in SHARDED:
        if name == "auto" and strategy["options"]:
            raise UserError(
                f"strategy.options has settings ({', '.join(strategy['options'])}), but strategy.strategy=auto names "
                "no class that takes them. Use strategy=ddp, fsdp, deepspeed_zero2 or deepspeed_zero3_offload."
            )
        return
    if strategy["accelerator"] == "cpu":
        raise UserError(f"strategy={name} needs GPUs. Use strategy=ddp on CPUs.")
    if trainer["ema_decay"]:
        raise UserError(
            f"trainer.ema_decay needs every weight on each device, which {name} divides. Set trainer.ema_decay=null, "
            "or use strategy=ddp."
        )
    if name == "deepspeed" and config["optimizer"].get("_target_") != "torch.optim.AdamW":
        raise UserError(
            "Under DeepSpeed checkpoints put AdamW's moments together, and know no other optimizer's. Set "
            "optimizer=adamw, or use strategy=ddp or fsdp."
        )
    half = config["model"]["frozen_dtype"] != "float32"
    if name == "fsdp" and half:
        raise UserError(
            "FSDP joins weights of one precision, but under this LoRA they are in "
            f"{config['model']['frozen_dtype']} and the adapters in float32. Set model.frozen_dtype=float32."
        )


def _check_diffusion(diffusion: Config) -> None:
    zero, span = diffusion["zero_terminal_snr"], diffusion["timestep_range"]
    if zero != "auto" and not isinstance(zero, bool):
        raise UserError(f"diffusion.zero_terminal_snr is {zero}; give auto, true or false.")
    if span is not None and len(span) != 2:
        raise UserError(f"diffusion.timestep_range is {span}; give the first and the last timestep, such as [0, 499].")
    if not diffusion["min_snr_gamma"] > 0:
        raise UserError(f"diffusion.min_snr_gamma is {diffusion['min_snr_gamma']}; give a number above 0, such as 5.")
    if diffusion["inversion_steps"] > 500:
        raise UserError(f"diffusion.inversion_steps is {diffusion['inversion_steps']}; give at most 500. 10 is usual.")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _lacks_bfloat16() -> bool:
    import torch

    return torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
