"""Choice of the device and the number format, always with its reason."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from reverie.core.errors import UsageError, argument


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" selects CUDA, else Apple's MPS, else the CPU.

    Raises:
        UsageError: a device that this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # the meta device has no values
    except (RuntimeError, AssertionError, TypeError) as error:
        reason, auto = str(error).splitlines()[0], argument("device", "auto")
        raise UsageError(f"The device {name!r} cannot be used here ({reason}). Try {auto}.") from error
    return device


@dataclass(frozen=True)
class Precision:
    """The networks' arithmetic; weights, losses and optimiser state stay float32."""

    device: torch.device
    bf16: bool
    reason: str

    def __str__(self) -> str:
        return f"{'bf16' if self.bf16 else 'fp32'} on {self.device} ({self.reason})"

    def autocast(self) -> contextlib.AbstractContextManager:
        """For a forward pass and its loss: matrix products and convolutions in bf16, if chosen.

        Without the cache of cast weights: a weight first used under ``no_grad`` would get no gradient afterwards."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)


def pick_precision(name: str, device: torch.device) -> Precision:
    """ "fp32", "bf16", or "auto": bf16 if the hardware multiplies it natively.

    Raises:
        UsageError: an unknown name.
    """
    if name in ("fp32", "bf16"):
        return Precision(device, name == "bf16", "as set")
    if name != "auto":
        raise UsageError(f"{argument('precision')} must be auto, fp32 or bf16, not {name!r}.")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision(device, native, "auto: this GPU multiplies bf16" if native else "auto: this GPU has no bf16")
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, probe, bool)() for probe in probes)
        reason = "multiplies bf16 natively" if native else "has no bf16 instructions"
        return Precision(device, native, f"auto: this CPU {reason}")
    return Precision(device, False, "auto: bf16 gains nothing here")


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Make cuDNN deterministic within the block."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def keep_memory() -> None:
    """Configure glibc to keep freed memory for the next step instead of returning it to the system.

    By default every activation of a few hundred kilobytes is mapped, zeroed page by page and unmapped: thousands of
    page faults per step, at least a tenth of training time on a CPU. No effect on other systems.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # a C library without it (musl)
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names of <malloc.h>
    mallopt(mmap_threshold, 32 << 20)  # glibc's maximum
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 64 << 20)
