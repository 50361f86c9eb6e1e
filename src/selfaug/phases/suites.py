"""What models are asked, on the task and in general, and their answers, kept as they are made.

A suite is a list of prompts with a score for each answer. Answers go into a file a batch at a time, so that what was
cut off goes on with the next prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfaug.config import LevelName, TrainConfig
from selfaug.core.cut_off import why_cut_off
from selfaug.core.detectable import detectable_difference
from selfaug.core.statistics import paired_difference, retention, score_interval
from selfaug.core.thoughts import without_thoughts
from selfaug.data.encoded_rows import EncodedRow
from selfaug.data.sources import Problem, problems_error
from selfaug.data.template import RetrievalTemplate
from selfaug.eval.choices import ChoiceItem, choice_log_likelihoods
from selfaug.eval.document_answers import rows_of_side, sides_of
from selfaug.eval.general_item import FITTING_SCORE
from selfaug.eval.general_suite import (
    LEVELS,
    GeneralItem,
    Half,
    Level,
    general_suite,
    score_general,
    spread_over_kinds,
)
from selfaug.eval.scorers import Scorer, knowing_no_answers, why_all_right, why_unscorable
from selfaug.eval.suite_files import SuiteRow
from selfaug.model.generate import chat_prompt_ids, end_tokens, generate_greedy_ids
from selfaug.phases.inputs import load_training_data, model_window, trained_rows
from selfaug.phases.prepared_folder import no_answer_of
from selfaug.records import append_line, read_lines, write_lines

__all__ = [
    "AskSettings",
    "ChosenLevel",
    "Suite",
    "answers_to",
    "compare_answers",
    "compare_scores",
    "compare_sides",
    "fitting_level",
    "general_prompts",
    "level_of",
    "scored_by",
    "select_items",
    "share_cut_off",
    "share_cut_off_by_level",
    "spread_over_sources",
    "suite_file_prompts",
    "task_prompts",
    "training_prompts",
]

# Items of each level that tell which one fits.
_PROBE_ITEMS = 24

# Where the longest completion decides, an answer may have so many times its tokens, and no fewer than these.
_ROOM = 1.25
_LEAST_ROOM = 64


@dataclass(frozen=True, kw_only=True)
class AskSettings:
    """What models are asked, and how their answers are scored.

    Attributes:
        scorer: of the task's rows, a name as in `eval/scorers.py`.
        level: of the general suite: "1" to "3", "all", or "auto" for the hardest at which the base model still passes
            40 % of a few development items.
        suites: beside the general suite: JSONL files of the user's own questions (see `selfaug.eval.suite_files`), or
            functions as `module:function` (see `selfaug.eval.own_suites`).
        general_items: how many general requests; None for all of the half and level.
        task_items: how many rows, evenly over their sources; None for all.
        max_new_tokens: longest answer to a row.
        batch_size: prompts answered together; what is lost when it is cut off.
    """

    scorer: str = "exact"
    level: LevelName = "auto"
    suites: Sequence[str] = ()
    general_items: int | None = None
    task_items: int | None = None
    max_new_tokens: int = 128
    batch_size: int = 32


@dataclass(frozen=True)
class Suite:
    """What a model is asked.

    Attributes:
        ids: one a prompt, each different.
        texts: of the prompts, for people.
        prompts: token ids.
        limits: most new tokens of each answer; 0 where a choice is the answer.
        choices: of each prompt: texts of which one is the answer; empty where it is written freely.
        score: of an answer, by the prompt's index, in [0, 1]; of what follows its thoughts.
        golds: completions of the task's rows without thoughts; empty for other suites.
        kinds: of the general requests; empty for other suites.
        clusters: what each prompt hangs together with, such as the document that it is about, or an empty text; empty
            where nothing is known of any. See `together`.
        no_answers: what the task's rows say where there is no answer, as far as that is known.
        warning: about what the task's scores are worth, or None.
    """

    ids: list[str]
    texts: list[str]
    prompts: list[list[int]]
    limits: list[int]
    choices: list[tuple[str, ...]]
    score: Callable[[int, str], float] = field(repr=False)
    golds: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)
    no_answers: list[str] = field(default_factory=list)
    warning: str | None = None

    @property
    def row_ids(self) -> list[str]:
        """Of the task's rows, as their files have them: `task_prompts` puts a number before each."""
        return [name.partition(": ")[2] for name in self.ids]

    @property
    def together(self) -> list[str]:
        """The cluster of each prompt; where none is known, one of its own, or with the same prompt again: that is
        answered the same again, and tells nothing more.
        """
        clusters = self.clusters or [""] * len(self.ids)
        first: dict[str, str] = {}
        return [
            cluster or first.setdefault(text, name)
            for cluster, text, name in zip(clusters, self.texts, self.ids, strict=True)
        ]

    @property
    def written(self) -> list[int]:
        """Indices of the prompts that are answered freely."""
        return [index for index, choices in enumerate(self.choices) if not choices]

    def kept(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Rows of a file of answers by id, as of `answers_to`: those that answer the same prompts.

        Ids are of places in a file, which may have been changed since. An answer that was cut off at another limit, or
        at one that nobody kept, is none to this prompt: it might go on now.
        """
        asked = {
            name: (text, limit) for name, text, limit in zip(self.ids, self.texts, self.limits, strict=True)
        }
        return {
            row["id"]: dict(row)
            for row in rows
            if row["id"] in asked
            and row["prompt"] == asked[row["id"]][0]
            and not (row.get("cut_off") and row.get("limit") != asked[row["id"]][1])
        }

    def spread(self, count: int | None) -> Suite:
        """So many of its prompts, chosen as by `evenly`; all for None."""
        size = len(self.ids)
        if count is None or count >= size:
            return self
        chosen = self.evenly(range(size), count)
        return replace(
            self,
            ids=[self.ids[i] for i in chosen],
            texts=[self.texts[i] for i in chosen],
            prompts=[self.prompts[i] for i in chosen],
            limits=[self.limits[i] for i in chosen],
            choices=[self.choices[i] for i in chosen],
            score=lambda index, answer: self.score(chosen[index], answer),
            golds=[self.golds[i] for i in chosen] if self.golds else [],
            kinds=[self.kinds[i] for i in chosen] if self.kinds else [],
            clusters=[self.clusters[i] for i in chosen] if self.clusters else [],
        )

    def evenly(self, indices: Sequence[int], count: int) -> list[int]:
        """So many of these prompts, or all if there are fewer: evenly over their kinds if they have any, else over
        their order.

        Kinds take turns in the general suite: a step over the order can skip some of them each time.

        Args:
            indices: of the prompts, in their order.
            count: of prompts.
        """
        kinds = self.kinds or [""] * len(self.ids)
        places = spread_over_sources([kinds[index] for index in indices], count)
        return [indices[place] for place in places]


def spread_over_sources(sources: Sequence[str], count: int | None) -> list[int]:
    """Places of so many rows, in their order: as many of each source as of any other, or all that it has, and these
    evenly over it; all for None.

    Args:
        sources: of each row, its source.
        count: of rows; all if there are fewer.
    """
    by_source: dict[str, list[int]] = {}
    for place, source in enumerate(sources):
        by_source.setdefault(source, []).append(place)
    chosen: list[int] = []
    left = len(sources) if count is None else min(count, len(sources))
    # The smallest first: what they lack is for the others to give.
    for before, own in enumerate(sorted(by_source.values(), key=len)):
        share = min(len(own), math.ceil(left / (len(by_source) - before)))
        chosen += [own[place * len(own) // share] for place in range(share)]
        left -= share
    return sorted(chosen)


def task_prompts(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    score: Scorer,
    items: int | None,
    max_new_tokens: int | None,
    template: RetrievalTemplate | None = None,
    no_answer: str | None = None,
    day: date | None = None,
) -> Suite:
    """Held-out rows, read as training rows are: the same template, window and checks.

    Args:
        config: of the run.
        tokenizer: its tokeniser.
        sources: of the rows.
        score: of an answer, given the row's completion.
        items: how many rows, evenly over the sources and over each; None for all.
        max_new_tokens: longest answer; None for a quarter more than the longest completion of these rows. Less where
            the window has no room for it behind the prompt: learned positions end there.
        template: that the run was trained with; None reads the file that the settings name.
        no_answer: what the run's rows said where there was no answer; rows may have been prepared anew since.
        day: that a chat template writes into prompts as today's; None for today.

    Raises:
        DataError: if the rows can't be used.
    """
    prepared = None if config.data.prepared is None else no_answer_of(Path(config.data.prepared))
    every = _held_out_rows(config, sources, template, day)
    places = spread_over_sources([row.source for row in every], items)
    rows = [every[place] for place in places]
    prompts = [_prompt(row).tolist() for row in rows]
    completions = [row.input_ids[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
    if max_new_tokens is None:
        longest = max(map(len, completions), default=0)
        max_new_tokens = max(_LEAST_ROOM, math.ceil(_ROOM * longest))
    window = model_window(config)
    suite = Suite(
        # Ids need not be unique in files of the user's. Among all rows, the number tells which ones were chosen.
        ids=[f"{place}: {row.id}" for place, row in zip(places, rows, strict=True)],
        texts=[tokenizer.decode(prompt) for prompt in prompts],
        prompts=prompts,
        limits=[_within(window, prompt, max_new_tokens) for prompt in prompts],
        choices=[()] * len(rows),
        score=lambda index, answer: 0.0,
        golds=[
            without_thoughts(tokenizer.decode(completion, skip_special_tokens=True).strip())
            for completion in completions
        ],
        clusters=[row.cluster for row in rows],
        no_answers=list(filter(None, (no_answer, prepared))),
    )
    return scored_by(suite, score)


def _within(window: int | None, prompt: Sequence[int], limit: int) -> int:
    """Most new tokens of an answer: the limit, or what the window has left behind the prompt."""
    return limit if window is None else min(limit, window - len(prompt))


def _prompt(row: EncodedRow) -> memoryview[int]:
    """What stands before the last completion of a row, token by token as in training, not copied."""
    return memoryview(row.ids)[: row.spans[-1][0]]


def training_prompts(config: TrainConfig, day: date | None = None) -> list[memoryview[int]]:
    """Prompts of the rows that a run of these settings trains on, but for replayed ones; `day` as of `task_prompts`.

    Raises:
        DataError: if the rows can't be used.
    """
    of_the_job = config.data.model_copy(update={"replay_share": 0.0})
    return [_prompt(row) for row in trained_rows(config.model_copy(update={"data": of_the_job}), day)]


def scored_by(suite: Suite, score: Scorer) -> Suite:
    """The suite of the task's rows with this scorer.

    Raises:
        DataError: with all rows that it can't score: at once, and not when all answers are there.
    """
    reasons = (
        (name, why_unscorable(score, gold)) for name, gold in zip(suite.row_ids, suite.golds, strict=True)
    )
    problems = [Problem(name, 0, reason) for name, reason in reasons if reason]
    if problems:
        raise problems_error(
            f"{len(problems):,} of {len(suite.ids):,} held-out rows can't be scored so.",
            problems,
            hint="score them as text, or by `numeric-or-f1`, which takes amounts as amounts and words as words.",
        )
    scorer = knowing_no_answers(score, suite.no_answers)
    return replace(
        suite,
        score=lambda index, answer: scorer(
            without_thoughts(answer.strip()), suite.golds[index], suite.texts[index]
        ),
        warning=why_all_right(scorer, suite.golds),
    )


def _held_out_rows(
    config: TrainConfig, sources: Sequence[str], template: RetrievalTemplate | None, day: date | None
) -> list[EncodedRow]:
    """Rows, read as the training rows of a run are; arguments as of `task_prompts`.

    Raises:
        DataError: if they can't be used.
    """
    as_rows = config.data.model_copy(update={"train": list(sources), "eval": [], "replay": []})
    return load_training_data(config.model_copy(update={"data": as_rows}), template, day).train.rows


def general_prompts(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[GeneralItem], template_arguments: Mapping[str, Any]
) -> Suite:
    """Items of the general suite."""
    return Suite(
        ids=[item.id for item in items],
        texts=[item.prompt for item in items],
        prompts=[chat_prompt_ids(tokenizer, item.prompt, **template_arguments) for item in items],
        limits=[item.max_new_tokens for item in items],
        choices=[item.choices for item in items],
        score=lambda index, answer: score_general(items[index], without_thoughts(answer)),
        kinds=[item.kind for item in items],
        clusters=[item.cluster for item in items],
    )


def select_items(half: Half, level: Level | None, count: int | None) -> list[GeneralItem]:
    """Items of a half and a level: so many, spread over the kinds, or all."""
    items = general_suite(half, level)
    return items if count is None else spread_over_kinds(items, count)


def suite_file_prompts(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[SuiteRow],
    max_new_tokens: int,
    template_arguments: Mapping[str, Any],
    *,
    window: int | None = None,
) -> Suite:
    """Rows of a suite of the user's own.

    Args:
        tokenizer: of the model.
        rows: as read.
        max_new_tokens: longest answer; less where the window has no room for it behind the question.
        template_arguments: of the chat template.
        window: positions that the model was made for; None if nobody knows.

    Raises:
        DataError: if a question is longer than the window: its answer would say nothing of the model.
    """
    prompts = [chat_prompt_ids(tokenizer, row.prompt, **template_arguments) for row in rows]
    problems = [
        Problem(row.id, 0, f"the question has {len(prompt):,} tokens, the model's window {window:,}")
        for row, prompt in zip(rows, prompts, strict=True)
        if window is not None and len(prompt) >= window
    ]
    if problems:
        raise problems_error(
            f"{len(problems):,} of {len(rows):,} questions of a suite don't fit.",
            problems,
            hint="shorten them, or leave them out.",
        )
    return Suite(
        ids=[row.id for row in rows],
        texts=[row.prompt for row in rows],
        prompts=prompts,
        limits=[
            0 if row.choices else _within(window, prompt, max_new_tokens)
            for row, prompt in zip(rows, prompts, strict=True)
        ],
        choices=[row.choices for row in rows],
        score=lambda index, answer: rows[index].score(without_thoughts(answer)),
    )


def answers_to(
    suite: Suite,
    path: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[str]:
    """Answers to all prompts: those in the file, if to the same prompts, and the others made and added to it, each when
    it ends.

    Args:
        suite: what is asked.
        path: JSONL file with `id`, `prompt`, `answer` and, of those written freely, their `limit` in tokens and
            whether they were `cut_off` there; in the suite's order when all are there.
        model: that is asked.
        tokenizer: its tokeniser.
        batch_size: prompts answered together; when it is cut off, only these answers are lost.
        on_progress: called with answers that are there and all.
    """
    here = set(suite.ids)
    rows: dict[str, dict[str, Any]] = {}
    if path.exists():
        lines = read_lines(path)
        rows = {row["id"]: row for row in lines if row["id"] not in here} | suite.kept(lines)
        # Without a last line that a crash cut off: the next one would be joined to it.
        write_lines(path, list(rows.values()))
    missing = [index for index, name in enumerate(suite.ids) if name not in rows]
    there = len(suite.ids) - len(missing)
    on_progress(there, len(suite.ids))
    written = [index for index in missing if not suite.choices[index]]
    # Like lengths together, the longest first, as generation sorts them, too.
    chosen = [index for index in missing if suite.choices[index]]
    chosen.sort(key=lambda index: len(suite.prompts[index]), reverse=True)

    def keep(index: int, answer: str, **more: int) -> None:
        nonlocal there
        name = suite.ids[index]
        rows[name] = {"id": name, "prompt": suite.texts[index], "answer": answer, **more}
        append_line(path, rows[name])
        there += 1
        on_progress(there, len(suite.ids))

    def keep_written(place: int, answer: list[int]) -> None:
        index = written[place]
        text = str(tokenizer.decode(answer, skip_special_tokens=True))
        limit = suite.limits[index]
        keep(index, text, limit=limit, cut_off=len(answer) >= limit)

    generate_greedy_ids(
        model,
        [suite.prompts[index] for index in written],
        eos_ids=end_tokens(model, tokenizer),
        max_new_tokens=[suite.limits[index] for index in written],
        batch_size=batch_size,
        on_answer=keep_written,
    )
    for start in range(0, len(chosen), batch_size):
        batch = chosen[start : start + batch_size]
        for index, answer in zip(batch, _choose(suite, batch, model, tokenizer), strict=True):
            keep(index, answer)
    ordered = [name for name in rows if name not in here] + suite.ids
    if list(rows) != ordered:
        write_lines(path, [rows[name] for name in ordered])
    return [rows[name]["answer"] for name in suite.ids]


def share_cut_off(suite: Suite, path: Path) -> float | None:
    """Share of a file's freely written answers that reached their limit; None where nobody kept it, or there are none.

    Args:
        suite: what was asked.
        path: as for `answers_to`.
    """
    kept = {row["id"]: row.get("cut_off") for row in read_lines(path)} if path.exists() else {}
    known = [cut for cut in (kept.get(suite.ids[index]) for index in suite.written) if cut is not None]
    return sum(known) / len(known) if known else None


def share_cut_off_by_level(items: Sequence[GeneralItem], path: Path) -> dict[str, float]:
    """As `share_cut_off`, of general requests by their level; without those of which nothing is known."""
    kept = {row["id"]: row.get("cut_off") for row in read_lines(path)}
    found: dict[str, list[bool]] = {}
    for item in items:
        if (cut := kept.get(item.id)) is not None:
            found.setdefault(str(item.level), []).append(cut)
    return {level: sum(cut) / len(cut) for level, cut in found.items()}


def _choose(
    suite: Suite,
    batch: Sequence[int],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> list[str]:
    """The likeliest choice of each prompt, by nats per token: a longer one is not at a disadvantage.

    Of equals it is the last: the general suite has the right one first, and what a model can't tell apart is no
    knowledge of it. Where a value is not finite, as of a model that is broken, there is no answer.
    """
    tokens = [
        [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in suite.choices[i]]
        for i in batch
    ]
    likelihoods = choice_log_likelihoods(
        model,
        [ChoiceItem(suite.prompts[i], choices) for i, choices in zip(batch, tokens, strict=True)],
        batch_size=len(batch),
    )
    best = []
    for index, choices, nats in zip(batch, tokens, likelihoods, strict=True):
        per_token = [value / len(choice) for value, choice in zip(nats, choices, strict=True)]
        likeliest = max(range(len(choices)), key=lambda place: (per_token[place], place))
        best.append(suite.choices[index][likeliest] if all(map(math.isfinite, per_token)) else "")
    return best


@dataclass(frozen=True)
class ChosenLevel:
    """Which level of the general suite is asked, and why.

    Attributes:
        level: 1 to 3, or None for all.
        scores: of the base model on a few development items of each level; empty if the user chose.
        cut_off: share of its written answers to these that reached their limit; None where it isn't known.
        cut_off_by_level: the same by level.
    """

    level: Level | None
    scores: dict[str, float]
    cut_off: float | None = None
    cut_off_by_level: dict[str, float] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """Why the level may be too easy for the model; empty where nothing speaks for it."""
        why = None if self.cut_off is None else why_cut_off(self.cut_off, own_limits=True)
        return [] if why is None else [f"where the level of the general requests was chosen, {why}."]


def level_of(name: LevelName) -> ChosenLevel | None:
    """The level that a user named; None for "auto"."""
    named: dict[str, Level | None] = {"all": None, **{str(level): level for level in LEVELS}}
    return None if name == "auto" else ChosenLevel(named[name], {})


def fitting_level(
    path: Path,
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    template_arguments: Mapping[str, Any],
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> ChosenLevel:
    """The hardest level of which the base model passes FITTING_SCORE, by a few development items; else the easiest.

    Where a model passes next to nothing, nothing is left to forget that could be seen.

    Args:
        path: JSONL file of the answers.
        base: the reference model.
        tokenizer: its tokeniser.
        template_arguments: of the chat template.
        batch_size: prompts answered together.
        on_progress: called with answers that are there and all.
    """
    items = [
        item for level in LEVELS for item in spread_over_kinds(general_suite("dev", level), _PROBE_ITEMS)
    ]
    suite = general_prompts(tokenizer, items, template_arguments)
    answers = answers_to(suite, path, base, tokenizer, batch_size, on_progress)
    scores: dict[Level, float] = {}
    for level in LEVELS:
        own = [suite.score(i, answers[i]) for i, item in enumerate(items) if item.level == level]
        scores[level] = sum(own) / len(own)
    fitting: list[Level] = [level for level in LEVELS if scores[level] >= FITTING_SCORE]
    return ChosenLevel(
        max(fitting, default=1),
        {str(level): score for level, score in scores.items()},
        share_cut_off(suite, path),
        share_cut_off_by_level(items, path),
    )


def compare_answers(suite: Suite, tuned: Sequence[str], base: Sequence[str]) -> dict[str, Any]:
    """Scores of both models with intervals, their difference item by item, and the items."""
    return compare_scores(
        suite.ids,
        [suite.score(index, answer) for index, answer in enumerate(tuned)],
        [suite.score(index, answer) for index, answer in enumerate(base)],
        suite.together,
    )


def compare_sides(suite: Suite, tuned: Sequence[str], base: Sequence[str]) -> dict[str, Any]:
    """Value, source and abstention of answers from documents, each as `compare_answers`; those that have rows."""
    sides = {}
    for side in sides_of(suite.no_answers):
        rows = rows_of_side(side, suite.golds, suite.no_answers)
        of_tuned, of_base = (
            [
                side.score(without_thoughts(answers[row].strip()), suite.golds[row], suite.texts[row])
                for row in rows
            ]
            for answers in (tuned, base)
        )
        if rows:
            ids, clusters = ([of_all[row] for row in rows] for of_all in (suite.ids, suite.together))
            sides[side.name] = compare_scores(ids, of_tuned, of_base, clusters)
    return sides


def compare_scores(
    ids: Sequence[str], tuned: Sequence[float], base: Sequence[float], clusters: Sequence[str] = ()
) -> dict[str, Any]:
    """As `compare_answers`, from scores of the same items and the cluster of each, if any are known."""
    together = list(clusters) if len(set(clusters)) < len(clusters) else None
    of_base, of_tuned = (score_interval(scores, seed=0, clusters=together) for scores in (base, tuned))
    paired = paired_difference(tuned, base, seed=0, clusters=together)
    seen = detectable_difference(
        len(ids),
        discordance=paired.discordance,
        cancelled=paired.cancelled,
        design_effect=paired.design_effect,
    )
    scores = {name: {"base": one, "tuned": other} for name, one, other in zip(ids, base, tuned, strict=True)}
    return {
        "items": len(ids),
        "base": of_base,
        "tuned": of_tuned,
        "difference": paired,
        "retention": retention(tuned, base, seed=0, clusters=together),
        "detectable_difference": seen.difference,
        "scores": scores,
        **({} if together is None else {"clusters": together}),
    }
