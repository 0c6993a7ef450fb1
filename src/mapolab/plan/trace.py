"""Running code on tensors that have shapes but no content, and counting its operations and its memory.

PyTorch's FLOP counter has no formula for the fused attention that a CPU takes, and the hooks by which it tells
modules apart keep recomputed activations alive; its memory tracker does not work on fake modules. So both are counted
here by one dispatch mode, with PyTorch's formulas.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from mapolab.models.weights import assign

Model = TypeVar("Model", bound=nn.Module)
aten = torch.ops.aten


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward_flops(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Two products for each of the forward's; that a fused kernel computes the scores again is not counted."""
    return 2 * sdpa_flop_count(query.shape, key.shape, value.shape)


FORMULAS = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


@dataclass(frozen=True)
class Count:
    """flops: of matrix products and convolutions, 2 for each multiplication with its addition.

    peak: the most bytes there were. peak_beside_gradients: the most when finished gradients do not count.
    """

    flops: int
    peak: int
    peak_beside_gradients: int


class Counter(TorchDispatchMode):
    """Adds up operations, and the bytes of all storages that were made under the mode and still live."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.now = self.gradients = self.peak = self.peak_beside_gradients = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if (formula := FORMULAS.get(operation._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.now += self.sizes[key]
        self.peak = max(self.peak, self.now)
        self.peak_beside_gradients = max(self.peak_beside_gradients, self.now - self.gradients)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)

    def watch(self, parameter: nn.Parameter) -> None:
        """The parameter itself does not count; its gradient is one from the moment on when it is whole."""
        self.sizes[parameter.untyped_storage()._cdata] = 0
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(self._gradient_is_whole)

    def _gradient_is_whole(self, parameter: nn.Parameter) -> None:
        self.gradients += self.sizes.get(parameter.grad.untyped_storage()._cdata, 0)


@contextlib.contextmanager
def counting(*models: nn.Module) -> Iterator[Callable[[], Count]]:
    """Within the block operations are counted; yields what tells the count. models: whose weights do not count."""
    counter = Counter()
    for model in models:
        for parameter in model.parameters():
            counter.watch(parameter)
    with counter:
        yield lambda: Count(counter.flops, counter.peak, counter.peak_beside_gradients)


def fake(model: Model, mode: FakeTensorMode, dtype: torch.dtype | None = None) -> Model:
    """Give a model on the meta device fake tensors on the CPU, which cost nothing. dtype: of what is frozen."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with mode:
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            kept = name in trained or dtype is None or not tensor.is_floating_point()
            assign(model, name, torch.empty(tensor.shape, dtype=tensor.dtype if kept else dtype))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model
