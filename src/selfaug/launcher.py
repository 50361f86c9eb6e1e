"""What a launcher (torchrun, `accelerate launch`) says of the processes that it has started."""

from __future__ import annotations

import os

__all__ = ["is_first_process", "process_count"]


def is_first_process() -> bool:
    """Whether this is the process that speaks and writes for all; without a launcher it is."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """How many a launcher has started, this one among them; 1 without."""
    return int(os.environ.get("WORLD_SIZE", "1"))
