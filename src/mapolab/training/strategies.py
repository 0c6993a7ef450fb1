"""The strategies of conf/strategy as Lightning's classes, with checkpoints that are ours in each of them.

Under FSDP and DeepSpeed no rank has all of a weight or of its moments. Lightning would write their own formats, which
are pickles and belong to one number of devices. Here all ranks put the tensors together and rank 0 writes the same
folder as on one device, so a run may go on with another number of devices, or under another strategy's checkpoint
rules.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, Strategy
from torch import Tensor
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    OptimStateKeyType,
    StateDictType,
)

from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError
from mapolab.training.shards import save_shards

MOMENTS = ("exp_avg", "exp_avg_sq")


class FolderFSDP(FSDPStrategy):
    """Fully sharded data parallel; each transformer block and each resnet is a unit of its own.

    state_dict_type: `full`, rank 0 gathers and writes all, or `sharded`, each rank writes what it has.
    """

    def __init__(self, **options: Any):
        super().__init__(auto_wrap_policy={BasicTransformerBlock, ResnetBlock2D}, **options)

    def whole_state(self) -> dict[str, Tensor]:
        """The module's tensors, whole, on rank 0 (empty elsewhere). To be called by all ranks."""
        whole = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
        with FullyShardedDataParallel.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, whole):
            return self.model.state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        path = Path(self.broadcast(filepath))
        if self._state_dict_type == "sharded":
            save_shards(self, checkpoint, path, self.checkpoint_io.write_divided)
        elif self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Called after the model is sharded; each rank reads the folder and keeps its part."""
        checkpoint = self.checkpoint_io.load_checkpoint(self.broadcast(checkpoint_path))
        whole = FullStateDictConfig(rank0_only=False), FullOptimStateDictConfig(rank0_only=False)
        with FullyShardedDataParallel.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, *whole):
            self.model.load_state_dict(checkpoint["state_dict"], strict=self.lightning_module.strict_loading)
            for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
                named = saved
                if all(isinstance(key, int) for key in saved["state"]):  # as rank 0 writes it
                    by_name = OptimStateKeyType.PARAM_NAME
                    named = FullyShardedDataParallel.rekey_optim_state_dict(saved, by_name, self.model)
                optimizer.load_state_dict(
                    FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, named)
                )
        return checkpoint


class FolderDeepSpeed(DeepSpeedStrategy):
    """DeepSpeed's ZeRO, with torch's own optimizers."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        # DeepSpeed refuses to offload the state of any optimizer but its own, unless told that it is meant.
        self.config["zero_force_ds_cpu_optimizer"] = False

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """The trained tensors in float32. To be called by all ranks."""
        from deepspeed.utils import safe_get_full_fp32_param

        return {name: safe_get_full_fp32_param(tensor) for name, tensor in self._trained().items()}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Each trained tensor's moments and the optimizer's own count of steps. To be called by all ranks."""
        from deepspeed.utils import safe_get_full_optimizer_state

        moments = {
            name: {moment: safe_get_full_optimizer_state(tensor, moment) for moment in MOMENTS}
            for name, tensor in self._trained().items()
        }
        steps = [state["step"] for state in self._base_states() if "step" in state]
        return {"moments": moments, "step": steps[0] if steps else None}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        checkpoint = self.checkpoint_io.load_checkpoint(self.broadcast(checkpoint_path))
        (saved,) = checkpoint["optimizer_states"]
        self._make_states()
        for name, tensor in self._trained().items():
            safe_set_full_fp32_param(tensor, checkpoint["state_dict"][name])
            for moment in MOMENTS:
                safe_set_full_optimizer_state(tensor, saved["moments"][name][moment], moment)
        for state in self._base_states():
            state["step"] = saved["step"].clone()
        self._update_weights(checkpoint["state_dict"])
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Done by `load_checkpoint`."""

    def _trained(self) -> dict[str, Tensor]:
        return self.lightning_module.trained_weights()

    def _make_states(self) -> None:
        """torch's optimizers make their moments in their first step, DeepSpeed finds them after its own first one."""
        zero = self.deepspeed_engine.optimizer
        # ZeRO-3 hands its flat masters to the optimizer during a step only.
        flat = getattr(zero, "fp32_partitioned_groups_flat", None)
        for part in flat or [part for group in zero.optimizer.param_groups for part in group["params"]]:
            if not zero.optimizer.state[part]:
                moments = {moment: torch.zeros_like(part) for moment in MOMENTS}
                zero.optimizer.state[part] = {"step": torch.tensor(0.0), **moments}
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # ZeRO 1 and 2; 3 finds them by itself
            zero._lazy_init_hp_params_optimizer_state()

    def _update_weights(self, weights: Mapping[str, Tensor]) -> None:
        """From the masters to the weights that compute."""
        import deepspeed

        zero = self.deepspeed_engine.optimizer
        if hasattr(zero, "update_lp_params"):  # ZeRO 1 and 2
            zero.update_lp_params()
            return
        for name, tensor in self._trained().items():
            with deepspeed.zero.GatheredParameters([tensor], modifier_rank=0):
                if self.is_global_zero:
                    tensor.data.copy_(weights[name])

    def _base_states(self) -> list[dict[str, Any]]:
        return list(self.deepspeed_engine.optimizer.optimizer.state.values())


def whole_state(strategy: Strategy) -> dict[str, Tensor]:
    """The module's tensors, on rank 0 at least; to be called by all ranks."""
    if isinstance(strategy, FolderFSDP):
        return strategy.whole_state()
    return strategy.lightning_module_state_dict()


CLASSES = {"ddp": DDPStrategy, "fsdp": FolderFSDP, "deepspeed": FolderDeepSpeed}
# What each takes as options: Lightning's class, and the class of torch that it hands the rest to.
SIGNATURES = {
    "ddp": (DDPStrategy, torch.nn.parallel.DistributedDataParallel),
    "fsdp": (FSDPStrategy, FullyShardedDataParallel),
    "deepspeed": (DeepSpeedStrategy,),
}


def build_strategy(strategy: dict[str, Any]) -> Strategy | str:
    """Lightning's strategy for the block `strategy` of a config. Raises UserError for options that it does not have."""
    name = strategy["strategy"]
    if name == "auto":
        return name
    check_options(strategy)
    try:
        return CLASSES[name](**strategy["options"])
    except ModuleNotFoundError as error:
        raise UserError(f"strategy={name} needs {error}. Install it: pip install 'mapolab[{name}]'.") from None


def check_options(strategy: dict[str, Any]) -> None:
    """Raise UserError unless the installed libraries know every option."""
    name = strategy["strategy"]
    known = {key for kind in SIGNATURES[name] for key in inspect.signature(kind.__init__).parameters} - {
        "self",
        "kwargs",
    }
    for key in strategy["options"]:
        if key not in known:
            hint = did_you_mean(f"strategy.options.{key}", [f"strategy.options.{option}" for option in sorted(known)])
            raise UserError(
                f"strategy.options.{key} is no setting of {name}.{hint} It knows: {', '.join(sorted(known))}."
            )
