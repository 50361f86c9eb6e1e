"""Standard benchmarks through lm-eval: the same tasks for base and tuned model, scored item by item."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfaug.errors import ConfigError, DataError
from selfaug.records import read_lines, write_lines

__all__ = ["benchmark_answers", "require_lm_eval"]


def require_lm_eval() -> None:
    """Refuse before anything long.

    Raises:
        ConfigError: if lm-eval is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("--benchmark needs lm-eval.", hint="run `pip install 'selfaug[lm-eval]'`.")


def benchmark_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    path: Path,
    *,
    folder: str | None,
    items: int | None,
    batch_size: int,
) -> list[dict[str, Any]]:
    """What a model answers to a task of lm-eval, kept in a file.

    Args:
        model: in the mode that it is asked in, with its adapter on or off.
        tokenizer: its tokeniser. Its chat template, if it has one, is applied.
        task: name, of lm-eval's own or of a file in `folder`.
        path: JSONL file that answers are kept in, and taken from if it is there. While they are made, each batch is
            kept beside it, so that a task that was cut off goes on.
        folder: with task files (YAML) of the user's, whose data may be local files.
        items: how many; None for all.
        batch_size: prompts answered together.

    Returns:
        `id`, `prompt`, `answer` and `score` of each item: the first metric of the task, after its first filter.

    Raises:
        ConfigError: if lm-eval is not installed, or has no such task.
        DataError: if a score is not between 0 and 1.
    """
    if path.exists():
        return read_lines(path)
    require_lm_eval()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder)
    if task not in manager.all_tasks:
        raise ConfigError(
            f"lm-eval has no task {task!r}.",
            hint="give the folder of a task of your own with --benchmark-tasks; `lm-eval ls tasks` lists lm-eval's.",
        )
    with _quiet():
        results = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=[task],
            task_manager=manager,
            limit=items,
            bootstrap_iters=0,
            use_cache=str(path.with_suffix("")),
            apply_chat_template=tokenizer.chat_template is not None,
            log_samples=True,
        )
    found: dict[str, dict[str, Any]] = {}
    for name, samples in results["samples"].items():
        for sample in samples:
            one = f"{name} {sample['doc_id']}"
            if one not in found:  # again with every further filter
                found[one] = {"id": one, **_item(sample)}
    rows = list(found.values())
    write_lines(path, rows)
    for cache in path.parent.glob(f"{path.stem}_rank*.db*"):  # as lm-eval names it
        cache.unlink()
    return rows


def _item(sample: Mapping[str, Any]) -> dict[str, Any]:
    metric = sample["metrics"][0]
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
    """lm-eval logs at length, and shows bars of its own."""
    import logging

    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
