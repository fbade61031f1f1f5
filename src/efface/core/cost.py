"""What a fit costs: time and memory."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Clock:
    """Runs from when it is made."""

    wall: float = field(default_factory=time.perf_counter)
    processor: float = field(default_factory=time.process_time)

    def cost(self, device: Any = None) -> dict[str, Any]:
        """Seconds, those of all processors, and the peak of memory of the process so far, or of the device."""
        spent = {"seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.processor}
        found: dict[str, Any] = {name: round(value, 3) for name, value in spent.items()}
        if isinstance(device, torch.device) and device.type == "cuda":
            return {**found, "peak_device_bytes": torch.cuda.max_memory_allocated(device)}
        return {**found, "peak_process_bytes": peak_bytes()}


def peak_bytes() -> int | None:
    """The most memory that this process has had so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
