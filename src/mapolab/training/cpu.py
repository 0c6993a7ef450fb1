"""Two settings of the process without which training on a CPU is slower by half, at times."""

import ctypes
import sys

import torch

# From glibc's malloc.h, and the largest values it takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST_KEPT, LARGEST_FROM_HEAP = 2**31 - 1, 32 << 20


def tune_cpu() -> None:
    """Called once, before the first computation: threads inherit the first setting."""
    # A saturated preference loss has gradients near 1e-40, on which CPUs compute several times slower than on zeros.
    torch.set_flush_denormal(True)
    # The buffers of a convolution are freed and asked for again in each step. Given back to the system in between, each
    # page of them would be fetched and cleared anew: a third of the VAE's time at 64 px.
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other libraries than glibc have none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, LARGEST_FROM_HEAP)
            mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
