"""What a training step costs, and where the time goes: `python benchmarks/step.py --size large|small`.

One process times in turn, on the same UNet (large: 27 M parameters, 128 px, 4 pairs; small: 1.6 M, 64 px, 8 pairs),

    floor           the UNet's forward and backward pass, MaPO's loss, clipping, the optimizer; on ready, noised latents
    unclipped       the same without clipping the gradient
    cached          a whole step of MaPO from a prepared cache: loader, noise, clipping, metrics, all but checkpoints
    on-line         the same from 512 px JPEGs: read, decoded, encoded by VAE and text encoders in the step
    diffusion_dpo   the cached step of Diffusion-DPO, with its frozen reference

and prints the ratios of the medians, then how a step divides. Taking turns (A B C A B C ...) spreads whatever else the
machine does over all. The published MaPO program's step was measured at 1.65 to 1.75 floors (large) and 2.5 (small).
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import synthetic
import torch
from diffusers import DDPMScheduler
from lightning.pytorch import Callback
from models import SIZES, Size, build_pipeline, build_unet, millions
from split import print_split

from mapolab import objectives
from mapolab.config.compose import compose
from mapolab.config.instantiate import instantiate
from mapolab.data.order import MicroSteps
from mapolab.data.prepared.prepare import prepare
from mapolab.diffusion.errors import denoising_task, pair_errors, predict
from mapolab.models.encoder import Encoder
from mapolab.models.reference import FrozenCopy
from mapolab.models.trained import TrainedModel
from mapolab.training.cpu import tune_cpu
from mapolab.training.data import build_datamodule, cache_folder, cache_spec, open_data
from mapolab.training.metrics import MetricsFile, StepMetrics
from mapolab.training.module import AlignmentModule
from mapolab.training.replaced import BrokenRows
from mapolab.training.resume import CheckpointFolder
from mapolab.training.run import make_trainer, quiet_libraries
from mapolab.training.saving import SaveAndStop
from mapolab.training.stopping import StopRequest

ROWS = 400
BETAS = {"mapo": 8.0, "diffusion_dpo": 2000.0}
OPTIMIZER = {"_target_": "torch.optim.AdamW", "lr": 1e-5, "weight_decay": 0.01, "fused": True}
SCHEDULE = {"name": "constant_with_warmup", "warmup_steps": 0}
Clock = Callable[[], float]


class Bench:
    """One size: its data, its models, and what is timed on them."""

    def __init__(self, size: Size, folder: Path, workers: int, clock: Clock):
        self.size, self.folder, self.workers, self.clock = size, folder, workers, clock
        self.sdxl = build_pipeline(size, folder)
        overrides = [
            f"data.path={synthetic.write(folder, ROWS)}", "data.split=train", f"data.resolution={size.resolution}",
            f"data.batch_size={size.batch_size}", f"data.num_workers={workers}", f"output_root={folder}",
            f"model.vae={self.sdxl.vae}", "evaluation=pictures", "trainer.progress=off",
        ]  # fmt: skip
        self.config = compose("train", ["data=pickapic_v2", *overrides])
        self.source = open_data(self.config, objectives.build("mapo", beta=8.0))
        cached = self.with_cache()
        spec = cache_spec(cached, self.source, self.sdxl)
        prepare(self.source, spec, self.sdxl, torch.device("cpu"), cache_folder(cached) / spec.key)

    def with_cache(self) -> dict[str, Any]:
        config = copy.deepcopy(self.config)
        config["data"] |= {"cache": True, "num_workers": 0}
        return config

    def trainer_steps(self, method: str, cached: bool, steps: int) -> list[float]:
        """Seconds of each of `steps` training steps, after two that warm up."""
        config = self.with_cache() if cached else self.config
        config["trainer"]["max_steps"] = steps + 3
        objective = objectives.build(method, beta=BETAS[method])
        unet = build_unet(self.size)
        module = AlignmentModule(
            TrainedModel(unet), DDPMScheduler(), objective, 0, OPTIMIZER, SCHEDULE,
            reference=FrozenCopy(unet) if objective.needs_reference else None,
            encoder=None if cached else Encoder.load(self.sdxl), sample_posterior=True,
        )  # fmt: skip
        times = StepTimes(self.clock)
        with tempfile.TemporaryDirectory() as folder, quiet_libraries():
            callbacks = [
                StepMetrics(MetricsFile(Path(folder) / "metrics.csv"), log_every=1),
                times,
                BrokenRows(Path(folder) / "broken_rows.csv", 0.01, self.source),
                SaveAndStop(CheckpointFolder(Path(folder)), every=10**9, keep=1, stop=StopRequest()),
            ]
            trainer = make_trainer(config, Path(folder), callbacks)
            trainer.fit(module, build_datamodule(config, objective, self.source, self.sdxl))
        return times.seconds()[2:]

    def floor_steps(self, clipped: bool, steps: int) -> list[float]:
        """Seconds of each of `steps` bare steps on a batch that is noised once, after two that warm up."""
        unet, objective = build_unet(self.size).train(), objectives.build("mapo", beta=8.0)
        task = denoising_task(self.cached_batch(), DDPMScheduler(), seed=0, with_rejected=True)
        parameters = list(unet.parameters())
        optimizer = instantiate(OPTIMIZER, parameters)
        ends = []
        for _ in range(steps + 3):
            prediction = predict(unet, task)
            optimizer.zero_grad()
            objective(pair_errors(prediction, task.target, None, with_rejected=True)).loss.backward()
            if clipped:
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            ends.append(self.clock())
        return [after - before for before, after in pairwise(ends)][2:]

    def cached_batch(self) -> dict[str, Any]:
        config, objective = self.with_cache(), objectives.build("mapo", beta=8.0)
        datamodule = build_datamodule(config, objective, self.source, self.sdxl)
        datamodule.setup("fit")
        return datamodule.dataset.__getitems__(
            next(iter(MicroSteps(datamodule.dataset.order, 0, 0, 1, self.size.batch_size)))
        )


class StepTimes(Callback):
    """Seconds from the end of each step to the end of the next."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(self.clock())

    def seconds(self) -> list[float]:
        return [after - before for before, after in pairwise(self.ends)]


def measure(runs: dict[str, Callable[[], list[float]]], turns: int) -> dict[str, float]:
    """The median seconds a step of each, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            seconds[name] += run()
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(bench: Bench, steps: int, turns: int) -> None:
    size = bench.size
    floor = {"floor": lambda: bench.floor_steps(True, steps), "unclipped": lambda: bench.floor_steps(False, steps)}
    kinds = {"cached": ("mapo", True), "on-line": ("mapo", False), "diffusion_dpo": ("diffusion_dpo", True)}
    trained = {name: (lambda kind=kind: bench.trainer_steps(*kind, steps)) for name, kind in kinds.items()}
    medians = measure(floor | trained, turns)
    vae = bench.sdxl.load_vae()
    print(
        f"UNet {millions(build_unet(size)):.1f} M parameters, VAE encoder {millions(vae.encoder):.1f} M, "
        f"{size.resolution} px, "
        f"{size.batch_size} pairs a step, {torch.get_num_threads()} threads, {bench.workers} loader processes on-line"
    )
    for name, seconds in medians.items():
        print(f"{name:14} {seconds * 1e3:8.1f} ms a step")
    base = medians["floor"]
    print(f"cached / floor           {medians['cached'] / base:.3f}  (aim: at most {size.most_cached})")
    print(f"cached / unclipped       {medians['cached'] / medians['unclipped']:.3f}")
    print(f"on-line / floor          {medians['on-line'] / base:.3f}  (aim: at most {size.most_on_line})")
    print(
        f"mapo / diffusion_dpo     {medians['cached'] / medians['diffusion_dpo']:.3f}  (aim: at most 0.80; least: 0.75)"
    )
    print_split(bench, OPTIMIZER, steps * turns, base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--steps", type=int, default=8, help="steps in each turn")
    parser.add_argument("--turns", type=int, default=4, help="turns of all")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of the on-line steps")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: this process's own time, on a machine with other work",
    )
    given = parser.parse_args()
    clock = time.perf_counter if given.clock == "wall" else time.process_time
    tune_cpu()
    with tempfile.TemporaryDirectory() as folder:
        report(Bench(SIZES[given.size], Path(folder), given.workers, clock), given.steps, given.turns)


if __name__ == "__main__":
    main()
