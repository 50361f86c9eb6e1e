"""What an evaluation asks, and how it is known again: settings, and contents of the files that it reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfaug.data.sources import describe_sources
from selfaug.errors import ConfigError, DataError, ModelError
from selfaug.eval.general_item import GeneralItem
from selfaug.eval.general_suite import Half
from selfaug.eval.own_suites import names_function, own_suite
from selfaug.eval.scorers import files_of_scorer
from selfaug.eval.suite_files import read_suite
from selfaug.model.stored_weights import stored_tokenizer_hash
from selfaug.phases.lm_eval_suites import hash_of_tasks
from selfaug.phases.run_models import TOKENIZER, alike_where_known, hash_of_weights
from selfaug.phases.suites import AskSettings

__all__ = ["Questions", "changed_settings", "digests_of", "hash_of_items", "suites_of"]

_RESERVED = {"task", "general"}


@dataclass(frozen=True)
class Questions:
    """What both models are asked.

    Attributes:
        ask: how many of what, and how answers are scored.
        sources: of held-out rows, as they are found from here.
        named: the same as the user names them, or the run's settings, wherever their files are found from here.
        half: of the general suite.
        files: suites of the user's by name, as `suites_of` returns them.
        made: items of those that a function makes.
        benchmarks: tasks of lm-eval.
        benchmark_tasks: folder with task files of the user's.
        benchmark_items: how many of each; None for all.
    """

    ask: AskSettings
    sources: list[str]
    named: list[str]
    half: Half
    files: dict[str, str]
    made: dict[str, list[GeneralItem]]
    benchmarks: Sequence[str]
    benchmark_tasks: str | None
    benchmark_items: int | None

    def settings(self, model: str, weights: Path, step: int | None) -> dict[str, Any]:
        """What an evaluation must have alike to go on with it, or to decide it anew.

        Args:
            model: name of the base model.
            weights: of the tuned model.
            step: at which they were saved.
        """
        settings = {
            "data": self.named, "scorer": self.ask.scorer, "half": self.half, "level": self.ask.level,
            "suites": {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in self.files.items()
                       if Path(file).is_file()}
            | {name: hash_of_items(items) for name, items in self.made.items()},
            "benchmarks": list(self.benchmarks), "benchmark_tasks": self.benchmark_tasks,
            "benchmark_items": self.benchmark_items, "general_items": self.ask.general_items,
            "task_items": self.ask.task_items, "max_new_tokens": self.ask.max_new_tokens, "step": step,
            "weights": hash_of_weights(weights), TOKENIZER: _tokenizer_hash(model),
        }  # fmt: skip
        if self.benchmarks and self.benchmark_tasks is not None:
            settings["benchmark_files"] = hash_of_tasks(self.benchmark_tasks)
        return settings

    def contents(self) -> dict[str, list[str]]:
        """`digests_of` the rows, and of the files by which answers are judged."""
        suites = [file for name, file in self.files.items() if name not in self.made]
        judges = {judge for file in suites for judge in _judges_of(file)}
        contents = digests_of([*self.sources, *files_of_scorer(self.ask.scorer), *sorted(judges)])
        name_of = dict(zip(self.sources, self.named, strict=True))
        return {name_of.get(source, source): digests for source, digests in contents.items()}


def _tokenizer_hash(model: str) -> str | None:
    """None of a base model that is not where it was: on the answers that are there, a gate can be decided without."""
    try:
        return stored_tokenizer_hash(model)
    except ModelError:  # which whoever loads the model says
        return None


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ."""
    changed = [key for key in now if before.get(key) != now[key]]
    if alike_where_known(before.get(TOKENIZER), now.get(TOKENIZER)):
        changed = [key for key in changed if key != TOKENIZER]
    return sorted(changed)


def digests_of(sources: Sequence[str]) -> dict[str, list[str]]:
    """SHA-256 of each file that rows, or the schema of a scorer, are read from; by source.

    There are none of a hub data set, nor of a file that is gone: what was evaluated can be decided on without it.
    """
    digests = {
        name: [one["sha256"] for one in describe_sources([name]) if "sha256" in one] for name in sources
    }
    return {name: found for name, found in digests.items() if found}


def suites_of(
    suites: Sequence[str], benchmarks: Sequence[str] = ()
) -> tuple[dict[str, str], dict[str, list[GeneralItem]]]:
    """Suites of the user's by name, and the items of those that a function makes.

    Args:
        suites: JSONL files, or functions as `module:function`.
        benchmarks: whose names are taken.

    Raises:
        ConfigError: if two have the same name, or a function can't be used.
    """
    files = {_suite_name(suite): suite for suite in suites}
    if len(files) < len(suites) or (_RESERVED | set(benchmarks)) & files.keys():
        raise ConfigError(
            "suites must have names of their own, other than task, general and the benchmarks': "
            f"{', '.join(map(str, suites))}.",
            hint="rename a file: its name without the ending is the suite's.",
        )
    return files, {name: own_suite(suite) for name, suite in files.items() if names_function(suite)}


def _suite_name(suite: str) -> str:
    return suite.partition(":")[2] if names_function(suite) else Path(suite).stem


def _judges_of(suite: str) -> list[str]:
    """Files that the scorers in a suite's lines read; none of one that can't be read any more, nor has to be."""
    try:
        return [file for row in read_suite(suite) for file in row.judged_by]
    except DataError:
        return []


def hash_of_items(items: Sequence[GeneralItem]) -> str:
    """The same in each process: a check of the user's own may be shown by where it lies in memory."""
    shown = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(items))
    return hashlib.sha256(shown.encode()).hexdigest()
