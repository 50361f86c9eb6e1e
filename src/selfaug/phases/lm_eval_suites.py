"""Standard benchmarks through lm-eval: the same tasks for base and tuned model, scored item by item."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfaug.errors import ConfigError, DataError
from selfaug.records import read_lines, read_record, write_lines, write_record

__all__ = ["Benchmark", "benchmark_answers", "hash_of_tasks", "require_benchmarks"]

_TABLE = "lm-eval"

# For the standard errors of metrics that are no means; those of means are computed.
_RESAMPLES = 1000


@dataclass(frozen=True)
class Benchmark:
    """What a model did at a task of lm-eval.

    Attributes:
        items: `id`, `prompt`, `answer` and `score` of each: the first metric of the task, after its first filter.
        table: lm-eval's own results, of all metrics and filters, as its version and rows of `task`, `version`,
            `filter`, `n_shot`, `metric`, `higher_is_better`, `value` and `stderr`.
    """

    items: list[dict[str, Any]]
    table: dict[str, Any]


def require_benchmarks(tasks: Sequence[str], folder: str | None) -> None:
    """Refuse before anything long.

    Args:
        tasks: names.
        folder: with task files of the user's.

    Raises:
        ConfigError: if lm-eval is not installed, or has no such tasks: all of them are named.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("--benchmark needs lm-eval.", hint='run `pip install "selfaug[lm-eval]"`.')
    unknown = [task for task in tasks if _manager_of(task, folder) is None]
    if unknown:
        raise ConfigError(
            f"lm-eval has no task {', '.join(map(repr, unknown))}.",
            hint="give the folder of a task of your own with --benchmark-tasks; `lm-eval ls tasks` lists lm-eval's.",
        )


def benchmark_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    path: Path,
    *,
    folder: str | None,
    items: int | None,
    batch_size: int,
    template_arguments: Mapping[str, Any] | None = None,
) -> Benchmark:
    """What a model answers to a task of lm-eval, kept in a file, and lm-eval's results beside it.

    Args:
        model: in the mode that it is asked in, with its adapter on or off.
        tokenizer: its tokeniser. Its chat template, if it has one, is applied.
        task: name, of lm-eval's own or of a file in `folder`.
        path: JSONL file that answers are kept in, and taken from if it is there. While they are made, each batch is
            kept beside it, so that a task that was cut off goes on.
        folder: with task files (YAML) of the user's, whose data may be local files.
        items: how many; None for all.
        batch_size: prompts answered together.
        template_arguments: of the chat template.

    Raises:
        ConfigError: if lm-eval is not installed, or has no such task.
        DataError: if a score is not between 0 and 1, or less of it is better.
    """
    kept_table = path.with_name(f"{path.stem}-results.json")
    if path.exists():
        return Benchmark(read_lines(path), read_record(kept_table, _TABLE))
    require_benchmarks([task], folder)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet():
        results = simple_evaluate(
            model=HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                chat_template_args=dict(template_arguments or {}),
            ),
            tasks=[task],
            task_manager=_manager_of(task, folder),
            limit=items,
            bootstrap_iters=_RESAMPLES,
            use_cache=str(path.with_suffix("")),
            apply_chat_template=tokenizer.chat_template is not None,
            log_samples=True,
        )
    found: dict[str, dict[str, Any]] = {}
    for name, samples in results["samples"].items():
        for sample in samples:
            one = f"{name} {sample['doc_id']}"
            if one not in found:  # again with every further filter
                found[one] = {"id": one, **_item(sample, results["higher_is_better"].get(name, {}))}
    items_found, table = list(found.values()), _table(results)
    write_record(kept_table, _TABLE, table)
    write_lines(path, items_found)  # last: where it is, the task is done
    for cache in path.parent.glob(f"{path.stem}_rank*.db*"):  # as lm-eval names it
        cache.unlink()
    return Benchmark(items_found, table)


def hash_of_tasks(folder: str) -> str:
    """SHA-256 of a folder's task files, and of Python and files that they may include; their data are not looked at."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).rglob("*")):
        if _may_be_of_tasks(file.relative_to(folder)) and file.is_file():
            digest.update(f"{file.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _may_be_of_tasks(file: Path) -> bool:
    """Whether a file may be a task, or one that tasks include; lm-eval's are called "_template_yaml" or "belebele"."""
    named = file.suffix in (".yaml", ".yml", ".py", "") or file.name.endswith("_yaml")
    hidden = any(part.startswith(".") for part in file.parts)  # such as ".git", in which much changes
    return named and not hidden


def _manager_of(task: str, folder: str | None) -> Any:
    """A manager of lm-eval's that knows the task; None if there is none."""
    if folder is not None:
        from lm_eval.tasks import TaskManager

        own = TaskManager(include_path=folder, include_defaults=False)
        if task in own.all_subtasks:  # a group may be of lm-eval's tasks, too
            return own
    whole = _whole_index(folder, _stamps(folder))
    return whole if task in whole.all_tasks else None


@lru_cache(maxsize=1)
def _whole_index(folder: str | None, stamps: frozenset[tuple[str, int, int]]) -> Any:
    """Of lm-eval's own tasks and the folder's. lm-eval reads its 14,000 files for it, which takes many seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


def _stamps(folder: str | None) -> frozenset[tuple[str, int, int]]:
    """Others when a task file of the folder has changed, been added or removed."""
    files = [] if folder is None else [file for file in Path(folder).rglob("*.yaml") if file.is_file()]
    return frozenset((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def _table(results: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of lm-eval's table, with each metric's true direction."""
    rows = []
    for task, metrics in results["results"].items():
        for name, value in sorted(metrics.items()):
            metric, comma, filtered = name.partition(",")
            if not comma or metric.endswith(
                "_stderr"
            ):  # others say how many items there were, and what it is called
                continue
            stderr = metrics.get(f"{metric}_stderr,{filtered}")
            rows.append(
                {
                    "task": task,
                    "version": results["versions"].get(task),
                    "filter": filtered,
                    "n_shot": results["n-shot"].get(task),
                    "metric": metric,
                    "higher_is_better": results["higher_is_better"].get(task, {}).get(metric),
                    "value": value,
                    "stderr": stderr if isinstance(stderr, float) else None,  # "N/A" where lm-eval has none
                }
            )
    return {"lm_eval": importlib.metadata.version("lm_eval"), "rows": rows}


def _item(sample: Mapping[str, Any], higher_is_better: Mapping[str, bool | None]) -> dict[str, Any]:
    metric = sample["metrics"][0]
    if higher_is_better.get(metric) is False:  # None: the task doesn't say
        raise DataError(
            f"of lm-eval's {metric}, less is better: its difference, and what was retained of it, would say the "
            "opposite.",
            hint="choose a task whose first metric is a score, such as acc or exact_match; or name that one first in a "
            "task file of your own, with --benchmark-tasks.",
        )
    score = float(sample[metric])
    if not 0.0 <= score <= 1.0:
        raise DataError(
            f"lm-eval's {metric} is {score}, not a score between 0 and 1.",
            hint="choose a task whose first metric is one, such as acc or exact_match.",
        )
    answer = sample["filtered_resps"]
    return {
        "prompt": str(_first(sample["arguments"])),
        "answer": answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str),
        "score": score,
    }


def _first(arguments: Any) -> Any:
    """The prompt of a sample's first request."""
    while isinstance(arguments, (Mapping, Sequence)) and not isinstance(arguments, str) and arguments:
        arguments = next(iter(arguments.values())) if isinstance(arguments, Mapping) else arguments[0]
    return arguments


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval logs at length, prints where results are expected, and would resample in processes of its own."""
    import logging

    logger = logging.getLogger("lm_eval")
    before, processes = logger.level, os.environ.get("DISABLE_MULTIPROC")
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
        if processes is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = processes
