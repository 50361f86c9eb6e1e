"""Work with tensors in a thread that ends with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_own_thread"]

_T = TypeVar("_T")


def in_own_thread(work: Callable[[], _T]) -> _T:
    """Do something with tensors in a thread of its own, which has ended when this returns.

    For what comes before another thread uses the models for long. Every thread that has made products on several
    processors keeps OpenMP's workers for as long as it lives. With more workers than processors, GNU's OpenMP no longer
    lets them spin between two products but sends them to sleep: on two cores a decoding step of eight rows had 2,500
    changes of context in place of 4, and took 340 ms in place of 150.

    Args:
        work: what is done.

    Returns:
        The work's result. What it raises is raised here.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="selfaug-once") as once:
        return once.submit(work).result()
