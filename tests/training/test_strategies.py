"""Every strategy builds; the sharded ones, which need GPUs, are checked against the installed libraries."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file

from mapolab.config.compose import compose
from mapolab.config.environment import nodes_from_environment
from mapolab.errors import UserError
from mapolab.files import read_json, write_json
from mapolab.models.sdxl import SDXL
from mapolab.training.run import train
from mapolab.training.strategies import FolderDeepSpeed, FolderFSDP, build_strategy, check_options

# What lets the sharded strategies run on a CPU. FSDP refuses one unless it is named as the device, and gathers all
# moments in one buffer, whose copy to the CPU is none there. DeepSpeed itself can; Lightning insists on GPUs.
ON_CPU = """
import argparse, functools, os, sys, torch, torch.distributed.fsdp
from torch.distributed.fsdp import _optim_utils

fsdp = torch.distributed.fsdp.FullyShardedDataParallel
initialise, unflatten = fsdp.__init__, _optim_utils._unflatten_orig_param_states

@functools.wraps(initialise)
def on_cpu(self, *arguments, **keywords):
    initialise(self, *arguments, **(keywords | {"device_id": torch.device("cpu")}))

def with_copies(info, states, name, *rest):
    unflatten(info, states, name, *rest)
    for state in states.values():
        if name in state:
            state[name] = state[name].clone()

fsdp.__init__, _optim_utils._unflatten_orig_param_states = on_cpu, with_copies

if any("deepspeed" in argument for argument in sys.argv):
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from lightning.pytorch.strategies import deepspeed as strategy

    def engine(self, model, optimizer, scheduler=None):
        return deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank), config=self.config, model=model, optimizer=optimizer,
            model_parameters=[item for item in model.parameters() if item.requires_grad], lr_scheduler=scheduler,
            dist_init_required=False,
        )[:2]

    strategy.CUDAAccelerator = object
    strategy._validate_device_index_selection = lambda devices: None
    strategy.DeepSpeedStrategy._setup_model_and_optimizer = engine

from mapolab.config.compose import compose
from mapolab.training.run import train
train(compose("train", sys.argv[1:]))
"""


def built(name: str):
    return build_strategy(compose("train", [f"strategy={name}"])["strategy"])


def test_what_each_name_builds():
    assert built("single") == "auto"
    assert isinstance(built("ddp"), DDPStrategy)
    assert isinstance(built("fsdp"), FolderFSDP)


@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3_offload"])
def test_deepspeed_knows_the_options(name):
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    strategy = built(name)
    assert isinstance(strategy, FolderDeepSpeed)
    zero = strategy.config["zero_optimization"]
    assert set(zero) <= set(DeepSpeedZeroConfig.model_fields)
    assert DeepSpeedZeroConfig(**zero).stage == (3 if "zero3" in name else 2)


def test_a_misspelt_option_is_named():
    with pytest.raises(UserError, match=r"strategy.options.cpu_ofload.*Did you mean strategy.options.cpu_offload"):
        check_options(compose("train", ["strategy=fsdp", "+strategy.options.cpu_ofload=true"])["strategy"])


def test_nodes_are_those_that_the_cluster_says():
    slurm = {"SLURM_NTASKS": "8", "SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NAME": "run.sh"}
    assert nodes_from_environment(slurm) == 4
    assert nodes_from_environment(slurm | {"SLURM_JOB_NAME": "bash"}) == 1
    assert nodes_from_environment({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}) == 2
    assert nodes_from_environment({}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp sharded", "deepspeed_zero2", "deepspeed_zero3_offload"])
def test_a_sharded_run_ends_with_the_weights_of_one_process_and_resumes(train_config, tmp_path, strategy):
    """Two gloo processes: how they train, save and continue. Not speed or memory."""
    if "deepspeed" in strategy:
        pytest.importorskip("deepspeed")
    script = tmp_path / "on_cpu.py"
    script.write_text(ON_CPU)
    settings = [
        f"model.pretrained={train_config['model']['pretrained']}", f"data.path={train_config['data']['path']}",
        "data=parquet_pairs", "data.resolution=16", "data.cache=true", "data.num_workers=0", "optimizer.lr=1e-3",
        "evaluation=pictures", "trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.progress=off",
        "trainer.gradient_accumulation=2", "strategy.accelerator=cpu", f"output_root={tmp_path}",
    ]  # fmt: skip
    alone = final(train(compose("train", [*settings, "data.batch_size=4", f"output_dir={tmp_path / 'one'}"])))

    def run(folder: Path) -> dict[str, torch.Tensor]:
        two = [f"strategy={strategy.split()[0]}", "strategy.devices=2", "data.batch_size=2", f"output_dir={folder}"]
        pinned = ["strategy.options.pin_memory=false"] if "zero3" in strategy else []  # needs a GPU
        divided = ["strategy.options.state_dict_type=sharded"] if "sharded" in strategy else []
        command = [sys.executable, str(script), *settings, *two, *pinned, *divided]
        process = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert process.returncode == 0, process.stdout + process.stderr
        return final(folder)

    sharded = run(tmp_path / "sharded")
    shards = sorted(path.name for path in (tmp_path / "sharded" / "checkpoints").glob("*/shard-*"))
    assert len(shards) == (4 if "sharded" in strategy else 0)
    assert sharded.keys() == alone.keys()
    start = SDXL(train_config["model"]["pretrained"]).load_unet().state_dict()
    assert distance(sharded, alone) <= 0.02 * distance(alone, start)
    again = shutil.copytree(tmp_path / "sharded", tmp_path / "again")
    for later in (again / "unet", again / "checkpoints" / "step-00000004"):
        shutil.rmtree(later)
    write_json(again / "manifest.json", read_json(again / "manifest.json") | {"status": "interrupted"})
    resumed = run(again)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in sharded.items())


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum((tensor - other[name]).square().sum() for name, tensor in one.items()).sqrt().item()


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
