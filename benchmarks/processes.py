"""Each measurement in a process of its own: nothing is left over from the one before, and peak memory is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

__all__ = ["in_own_process", "interleaved", "prepare"]

# A server that has imported the libraries and done nothing else; processes are forked from it, so that imports
# cost neither time nor memory of their own.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.variants"])


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a new process; what it raises is raised here."""
    with ProcessPoolExecutor(1, mp_context=_CONTEXT) as pool:
        return pool.submit(function, *args).result()


def interleaved(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Every name once a round, in turns forwards and backwards: a machine that slows down slows all of them."""
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name


def prepare(threads: int | None) -> None:
    """Number of threads of this process, and no chatter of the libraries."""
    import logging
    import warnings

    import datasets
    import transformers

    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
