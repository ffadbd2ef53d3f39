"""Where and how torch computes: device, precision, threads, evaluation mode, random generators."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from labutils.config import stream_seed

# torch's random generators belong to the process: of two threads that make or train a model at once, neither would get
# its seed's numbers. Reentrant: a callback of a training may build a model.
RANDOM_LOCK = threading.RLock()


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is the first available of cuda, mps, cpu. Others are a ValueError."""
    devices = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [device for device, is_available in devices.items() if is_available]
    if name not in ("auto", *available):
        raise ValueError(f"device={name!r} is not available here; available: {available}")
    return torch.device(available[0] if name == "auto" else name)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision of a name; "auto" is bfloat16 on CUDA cards that have it, float32 elsewhere. bfloat16
    that the device would only emulate is a ValueError."""
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


@contextmanager
def cpu_threads(n: int) -> Iterator[None]:
    """Compute with n threads inside, in torch and numpy's linear algebra. Their number decides a result's last bits."""
    before = torch.get_num_threads()
    with threadpool_limits(n):
        torch.set_num_threads(n)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[torch.device]:
    """Put a model in evaluation mode without gradients, in its own mode afterwards; gives the model's device."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield next(model.parameters()).device
    finally:
        model.train(was_training)


@contextmanager
def private_noise(seed: int, purpose: str, device: torch.device) -> Iterator[None]:
    """Give torch's global generators (the CPU's and the device's) a stream of their own inside; restore them after."""
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


@cache
def keep_freed_memory() -> None:
    """Have glibc's malloc keep freed memory: else every step's activations return to the kernel and come back as page
    faults, a sixth of a step's time on Linux."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    # blocks below 32 MiB (more an older glibc refuses) come from the heap, which keeps up to 256 MiB of free space
    if mallopt and mallopt(m_mmap_threshold, 2**25):
        mallopt(m_trim_threshold, 2**28)
