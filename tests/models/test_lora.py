from contextlib import nullcontext

import pytest
import torch
from adapters import LORA

from mapolab.models.lora import ADAPTER, adapters_off, add_adapters, unet_adapter
from mapolab.models.sdxl import SDXL


def test_adapters_are_off_within_the_block_and_on_again_whatever_happens(tiny_pipeline_folder):
    unet = SDXL(str(tiny_pipeline_folder)).load_unet()
    name, layer = next((name, module) for name, module in unet.named_modules() if name.endswith("to_q"))
    x = torch.ones(1, layer.in_features)
    plain = layer(x)
    add_adapters(unet, unet_adapter(LORA), seed=0, number=0)
    layer = unet.get_submodule(name)
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    up.data.fill_(1.0)
    adapted = plain + LORA["alpha"] / LORA["rank"] * x @ down.T @ up.T
    assert not torch.allclose(adapted, plain)
    for failure in (None, ZeroDivisionError):
        torch.testing.assert_close(layer(x), adapted)
        with pytest.raises(failure) if failure else nullcontext(), adapters_off(unet):
            assert torch.equal(layer(x), plain)
            if failure:
                raise failure
    torch.testing.assert_close(layer(x), adapted)
