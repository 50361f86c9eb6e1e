"""Memory of this process: the highest, and what is given back."""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path

import torch

__all__ = ["peak_memory", "release_memory"]

_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> int | None:
    """Bytes: the most that was allocated on a GPU, else the most that was resident so far. None where the system does
    not say, as on Windows.

    Not `ru_maxrss` where Linux has better: there a process that was started by a large one begins with that one's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def release_memory() -> None:
    """Free what nobody refers to any more, cycles too, and leave a GPU's memory to other processes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
