"""Where training computes: device, precision, and torch's random generators there."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from labutils.config import stream_seed


def resolve_device(name: str) -> torch.device:
    """ "auto" as the best device there is: cuda, then mps, then cpu.

    Raises:
        ValueError: this machine (or this build of torch) does not have the device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, ok in there.items() if ok)
    if not there[name]:
        raise ValueError(f"device={name!r} is not available here; available: {[d for d, ok in there.items() if ok]}")
    return torch.device(name)


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" as bfloat16 on CUDA cards that have it and float32 elsewhere.

    Raises:
        ValueError: bfloat16 was asked for and the processor would only emulate it.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        onednn = device.type == "cpu" and torch.backends.mkldnn.is_available()
        native = onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if precision == "auto":
        return "bfloat16" if native and device.type == "cuda" else "float32"
    if precision == "bfloat16" and not native:
        raise ValueError(f"precision='bfloat16' is not supported by this machine's {device.type}: use float32")
    return precision


@cache
def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed. By default the activations of every step go back to the kernel, which
    hands them out again as zeroed pages, one fault each: a sixth of a step's time on Linux."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    # blocks below 32 MiB (more an older glibc refuses) come from the heap, which keeps up to 256 MiB of free space
    if mallopt and mallopt(m_mmap_threshold, 2**25):
        mallopt(m_trim_threshold, 2**28)


@contextmanager
def private_noise(seed: int, purpose: str, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators (the CPU's, and that of the model's accelerator) run a stream of their own;
    outside, they are as if nothing had happened."""
    mps_state = torch.mps.get_rng_state() if device.type == "mps" else None  # fork_rng knows CUDA only
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(stream_seed(seed, purpose))
            if device.type != "cpu":
                torch.get_device_module(device).manual_seed(stream_seed(seed, purpose))
            yield
    finally:
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)
