"""The command line in a test's own process: it silences libraries for good, as a process of its own may."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def libraries_as_before() -> Iterator[None]:
    """Environment, loggers and warnings are afterwards as they were."""
    before = dict(os.environ)
    loggers = [logging.getLogger(name) for name in ("torch", "trl", "peft", "accelerate", "datasets")]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, which a user sees too
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
