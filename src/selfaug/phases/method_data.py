"""What some methods need before training: texts that the base model writes. Written once, and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfaug.config import TrainConfig
from selfaug.data import RetrievalTemplate, Row, load_rows
from selfaug.errors import ModelError
from selfaug.eval.checks import numbers
from selfaug.eval.scorers import SCORERS
from selfaug.model.generate import chat_prompt_ids, generate_greedy
from selfaug.records import write_lines
from selfaug.train.anchors import self_dialogues

__all__ = ["write_distilled_rows", "write_self_dialogues"]

OnProgress = Callable[[int, int], None]

_REWRITE = (
    "\n\nA correct answer is: {answer}\n\n"
    "Use it as a guide, and write the answer to the question above in your own words."
)


def write_self_dialogues(
    path: Path, model: Any, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, on_progress: OnProgress
) -> int:
    """Requests that the base model writes, each with its answer, as rows of messages; returns how many.

    Source: SA-SFT (arXiv 2602.20162), with requests as in Magpie (arXiv 2406.08464).

    Raises:
        ModelError: if the model has no chat template, or writes nothing.
    """
    dialogues = self_dialogues(model, tokenizer, count, seed=seed, on_progress=on_progress)
    rows = []
    for request, answer_ids in dialogues:
        answer = tokenizer.decode(answer_ids, skip_special_tokens=True).strip()
        if answer:
            rows.append([{"role": "user", "content": request}, {"role": "assistant", "content": answer}])
    if not rows:
        raise ModelError(
            "the base model's answers to its own requests are all empty.",
            hint="it is not a chat model, perhaps: leave out the methods that replay its dialogues.",
        )
    write_lines(
        path,
        [{"id": f"dialogue-{number}", "messages": messages} for number, messages in enumerate(rows, start=1)],
    )
    return len(rows)


def write_distilled_rows(
    path: Path,
    config: TrainConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    on_progress: OnProgress,
) -> int:
    """The training rows with completions in the base model's own words; returns how many were rewritten.

    The base model sees the prompt and the right completion, and writes the answer anew. A new text replaces the
    completion only if it says the same: it has all of the completion's numbers, or, where there are none, its words.
    Source: SDFT (arXiv 2402.13669).
    """
    template = RetrievalTemplate.from_file(config.data.template) if config.data.template else None
    rows = load_rows(
        config.data.train,
        template=template,
        every_assistant_turn=config.data.every_assistant_turn,
        skip_bad_rows=config.data.skip_bad_rows,
        split=config.data.split,
        offline=config.run.offline,
    ).rows
    prompts, completions = [], []
    for row in rows:
        messages: list[dict[str, Any]] = (
            [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
        )
        completion = row.completion if isinstance(row.completion, str) else row.completion[-1]["content"]
        prompts.append(messages)
        completions.append(str(completion))
    asked = [
        [
            *messages[:-1],
            {**messages[-1], "content": messages[-1]["content"] + _REWRITE.format(answer=completion)},
        ]
        for messages, completion in zip(prompts, completions, strict=True)
    ]
    written = generate_greedy(
        model,
        tokenizer,
        [chat_prompt_ids(tokenizer, messages, **config.data.chat_template_kwargs) for messages in asked],
        max_new_tokens=max_new_tokens,
        on_progress=on_progress,
    )
    rewritten, lines = 0, []
    for row, messages, completion, text in zip(rows, prompts, completions, written, strict=True):
        if _says_the_same(text, completion) and text.strip() != completion:
            completion, rewritten = text.strip(), rewritten + 1
        lines.append(_as_raw(row, messages, completion))
    write_lines(path, lines)
    return rewritten


def _as_raw(row: Row, messages: list[dict[str, Any]], completion: str) -> dict[str, Any]:
    """The row in the form that it came in, with another completion: passages can still be dropped."""
    if row.retrieval is not None:
        parts = {"question": row.retrieval.question, "context": list(row.retrieval.passages)}
        gold = {} if row.retrieval.gold is None else {"gold": row.retrieval.gold}
        return {"id": row.id, **parts, "answer": completion, **gold}
    if isinstance(row.completion, str):
        return {"id": row.id, "prompt": row.prompt, "completion": completion}
    answer = [{**row.completion[-1], "content": completion}]
    return {
        "id": row.id,
        "prompt": messages,
        "completion": answer,
        **({"tools": row.tools} if row.tools else {}),
    }


def _says_the_same(text: str, completion: str) -> bool:
    wanted = numbers(completion)
    if wanted:
        return set(wanted) <= set(numbers(text))
    return SCORERS["contains"](text, completion, "") > 0
