"""How much work a step is, and how much of it the device could have done: counted operations, peak rates, memory.

Model FLOPs are three times those of the forward pass (backward costs twice), and once those without gradient, such as a
teacher's, counted while the first step runs: patches that are never looked at do not count and neither does anything
recomputed to save memory. Utilisation divides by
the device's peak for the precision used: a published figure for GPUs that are known, else a matrix product that is timed
here, which is what an honest program could reach on this machine.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
    shape_wrapper,
)

__all__ = ["PEAKS", "Meter", "forget_peak", "forward_flops", "memory", "peak_rate", "step_flops"]

BACKWARD = 3
"""Forward and backward over forward alone."""

PEAKS = {
    "H200": {"bf16": 989e12, "fp32": 67e12},
    "H100": {"bf16": 989e12, "fp32": 67e12},
    "A100": {"bf16": 312e12, "fp32": 19.5e12},
    "L40S": {"bf16": 362e12, "fp32": 91.6e12},
    "RTX 4090": {"bf16": 165e12, "fp32": 82.6e12},
}
"""Dense FLOP/s by a part of the device's name (NVIDIA's data sheets; SXM where there are several)."""

_SIDE = 1024
_STATUS = Path("/proc/self/status")


def _cpu_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _cpu_attention_backward(slope: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(slope, query, key, value)


_MISSING = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
"""What torch's own table leaves out."""


def _learning(count: Callable[..., int]) -> Callable[..., int]:
    """The same count of an operation, for forward and backward where a gradient is wanted."""

    def counted(*given: Any, **named: Any) -> int:
        return count(*given, **named) * (BACKWARD if torch.is_grad_enabled() else 1)

    counted._get_raw = True  # type: ignore[attr-defined]
    return counted


@contextmanager
def forward_flops() -> Iterator[list[int]]:
    """A list that holds, after the block, the floating-point operations of what ran in it; compiled code runs eagerly."""
    with _counting(_MISSING) as found:
        yield found


@contextmanager
def step_flops() -> Iterator[list[int]]:
    """As `forward_flops` around a forward pass, with the operations of the backward pass that is to follow."""
    known: dict[Any, Any] = flop_registry | {name: shape_wrapper(count) for name, count in _MISSING.items()}
    with _counting({name: _learning(count) for name, count in known.items()}) as found:
        yield found


@contextmanager
def _counting(table: Mapping[Any, Any]) -> Iterator[list[int]]:
    found: list[int] = []
    with (
        torch.compiler.set_stance("force_eager"),
        FlopCounterMode(display=False, custom_mapping=dict(table)) as counter,
    ):
        yield found
    found.append(int(counter.get_total_flops()))


def peak_rate(device: str, precision: str) -> float:
    """FLOP/s that `device` can reach in `precision`: published, or that of a square matrix product timed here."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
        for part, rates in PEAKS.items():
            if part in name:
                return rates[precision]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    square = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float((square @ square)[0, 0])  # the read waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best


def memory(device: str) -> float:
    """The most memory used so far, GB: of the device, or of this process where the device is the CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 1e9
    if _STATUS.is_file():
        peak = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 / 1e9
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most * 1024 / 1e9


def forget_peak(device: str) -> None:
    """Let `memory` count from here, for what begins in a process that was used before; only Linux can for a CPU."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    elif _STATUS.is_file():
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of the resident set


class Meter:
    """Counts one rank's work of the first step it is shown, and says what later times are worth."""

    def __init__(self, device: str, precision: str) -> None:
        self.device = device
        self.peak = peak_rate(device, precision)
        self.flops = 0

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around each forward pass of one step."""
        with step_flops() as found:
            yield
        self.flops += found[0]

    def numbers(self, steps: int, seconds: float) -> dict[str, float]:
        """`tflops` (10^12 a second), `mfu` (0 to 1) and `memory_gb` of one rank over some steps."""
        rate = self.flops * steps / max(seconds, 1e-9)
        return {
            "tflops": round(rate / 1e12, 4),
            "mfu": round(rate / self.peak, 4),
            "memory_gb": round(memory(self.device), 3),
        }
