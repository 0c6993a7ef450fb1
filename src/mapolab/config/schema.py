"""The keys of every config and their types. What a key means and its default stand in conf/, beside its value.

Every field is MISSING here on purpose: a default in two places would drift apart.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mapolab.config.model_schema import Compare, Evaluate, Export
from mapolab.config.pair_schema import MakePairs, Ranking
from mapolab.config.rollout import Rollout


@dataclass
class Lora:
    rank: int = MISSING
    alpha: float = MISSING
    dropout: float = MISSING
    dora: bool = MISSING
    target_modules: list[str] = MISSING
    text_encoders: bool = MISSING
    text_encoder_learning_rate: float | None = MISSING
    text_encoder_target_modules: list[str] = MISSING
    learned_token: str | None = MISSING
    token_initial: str | None = MISSING
    token_learning_rate: float | None = MISSING


@dataclass
class Model:
    pretrained: str = MISSING
    revision: str | None = MISSING
    variant: str | None = MISSING
    single_file_config: str = MISSING
    vae: str | None = MISSING
    vae_revision: str | None = MISSING
    vae_dtype: str = MISSING
    encoder_dtype: str = MISSING
    trained_dtype: str = MISSING
    frozen_dtype: str = MISSING
    lora: Lora | None = MISSING
    reference: str = MISSING
    reference_dtype: str = MISSING
    reference_ema_decay: float = MISSING
    reference_refresh_every: int = MISSING
    gradient_checkpointing: bool = MISSING
    channels_last: bool = MISSING
    compile: bool = MISSING


@dataclass
class Diffusion:
    prediction_type: str = MISSING
    zero_terminal_snr: Any = MISSING  # true, false, or auto
    timestep_range: list[int] | None = MISSING
    timestep_weighting: str = MISSING
    min_snr_gamma: float = MISSING
    noise: str = MISSING
    inversion_steps: int = MISSING
    inversion_noise: float = MISSING


@dataclass
class Data:
    path: str = MISSING
    split: str | None = MISSING
    validation_path: str | None = MISSING
    validation_split: str | None = MISSING
    revision: str | None = MISSING
    preferred_style: str | None = MISSING
    resolution: int = MISSING
    aspect_buckets: bool = MISSING
    micro_conditioning: str = MISSING
    batch_size: int = MISSING
    num_workers: int = MISSING
    shuffle_window: Any = MISSING  # auto, all, or a number of rows
    cache: bool = MISSING
    cache_folder: str | None = MISSING
    cache_dtype: str = MISSING
    download_cache_gb: float = MISSING
    vae_posterior: str = MISSING
    flip_probability: float = MISSING
    prompt_dropout: float = MISSING
    ties: str = MISSING
    weights: str = MISSING
    label_flip_probability: float = MISSING
    label_noise_probability: float = MISSING
    max_broken_share: float = MISSING
    allow_overlap: bool = MISSING


@dataclass
class Schedule:
    name: str = MISSING
    warmup_steps: int = MISSING


@dataclass
class Strategy:
    accelerator: str = MISSING
    strategy: str = MISSING
    devices: Any = MISSING  # a number, a list of device indices, or auto
    num_nodes: Any = MISSING  # a number, or auto until the environment has said it
    options: dict[str, Any] = MISSING  # open: the keys belong to the strategy's class


@dataclass
class Trainer:
    max_steps: int = MISSING
    gradient_accumulation: int = MISSING
    gradient_clip_norm: float | None = MISSING
    precision: str = MISSING
    checkpoint_every: int = MISSING
    keep_checkpoints: int = MISSING
    checkpoint_in_background: bool = MISSING
    validate_every: int | None = MISSING
    validation_pairs: int = MISSING
    keep_best: str | None = MISSING
    log_every: int = MISSING
    ema_decay: float | None = MISSING
    ema_on_cpu: bool = MISSING
    progress: str = MISSING


@dataclass
class Preemption:
    requeue: bool = MISSING
    max_requeues: int = MISSING
    save_before_limit: float | None = MISSING


@dataclass
class Evaluation:
    prompts: str | None = MISSING
    split: str | None = MISSING
    revision: str | None = MISSING
    limit: int | None = MISSING
    images_per_prompt: int = MISSING
    negative_prompt: str = MISSING
    steps: int = MISSING
    guidance_scale: float = MISSING
    scheduler: str = MISSING
    seed: int = MISSING
    batch_size: int = MISSING
    height: int = MISSING
    width: int = MISSING
    precision: str = MISSING
    target_style: str | None = MISSING
    scorers: Any = MISSING  # a list of names, or of mappings with _target_ and settings
    after_training: bool = MISSING


@dataclass
class Train:
    name: str = MISSING
    task: str = MISSING
    seed: int = MISSING
    output_root: str = MISSING
    output_dir: str | None = MISSING
    model: Model = field(default_factory=Model)
    diffusion: Diffusion = field(default_factory=Diffusion)
    data: Data = field(default_factory=Data)
    # Open blocks: their keys belong to the objective, the optimizer, the logger and the recipe that they name.
    objective: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    schedule: Schedule = field(default_factory=Schedule)
    strategy: Strategy = field(default_factory=Strategy)
    trainer: Trainer = field(default_factory=Trainer)
    preemption: Preemption = field(default_factory=Preemption)
    evaluation: Evaluation = field(default_factory=Evaluation)
    learning_rates: dict[str, float] | None = MISSING
    objective_betas: dict[str, float | None] | None = MISSING
    rollout: Rollout | None = MISSING
    logger: dict[str, Any] = MISSING
    tiny_base: dict[str, Any] | None = MISSING


@dataclass
class Prepare(Train):
    part: int = MISSING
    parts: int = MISSING
    verify: bool = MISSING


@dataclass
class Mismatch(Train):
    run: str | None = MISSING
    pairs: int = MISSING
    features: str = MISSING
    feature_weights: str | None = MISSING


@dataclass
class Plan(Train):
    format: str = MISSING
    accelerator: str = MISSING
    peak_tflops: float | None = MISSING
    memory_gib: float | None = MISSING
    efficiency: float = MISSING
    reserve_gib: float = MISSING
    rows: int | None = MISSING


@dataclass
class Iterate(Train, Ranking):
    rounds: int = MISSING
    devices: Any = MISSING


SCHEMAS = {
    "train": Train,
    "prepare": Prepare,
    "plan": Plan,
    "evaluate": Evaluate,
    "mismatch": Mismatch,
    "compare": Compare,
    "export": Export,
    "make-pairs": MakePairs,
    "iterate": Iterate,
}
TRAIN_LIKE = ("train", "prepare", "plan", "mismatch", "iterate")  # whose configs compose those of conf/train.yaml
