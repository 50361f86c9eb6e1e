"""Answers: to a multiple choice that a model can't tell apart, and those that are kept in a file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

from selfaug.config import TrainConfig
from selfaug.core.thoughts import without_thoughts
from selfaug.eval.checks import Chooses
from selfaug.eval.form_checks import Words
from selfaug.eval.general_item import GeneralItem
from selfaug.eval.scorers import named_scorer
from selfaug.eval.suite_files import SuiteRow
from selfaug.phases.evaluate import _take_base_answers
from selfaug.phases.suites import (
    answers_to,
    compare_answers,
    general_prompts,
    scored_by,
    suite_file_prompts,
    task_prompts,
)
from selfaug.records import read_lines, write_lines

# As in the general suite, the first choice is the right one.
ITEM = GeneralItem("one", "multiple choice", 1, "Which one?", (Chooses("a"),), 0, ("a", "b", "c", "d"))


@pytest.mark.parametrize(("weight", "answer"), [(0.0, "d"), (math.nan, "")])
def test_a_model_that_can_not_tell_choices_apart_is_not_right(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, weight: float, answer: str
) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir).eval()
    with torch.no_grad():
        model.lm_head.weight.fill_(weight)
    suite = general_prompts(tiny_tokenizer, [ITEM], {})
    assert answers_to(suite, tmp_path / "answers.jsonl", model, tiny_tokenizer, 1) == [answer]
    assert suite.score(0, answer) == 0.0


def test_what_follows_the_thoughts_is_scored(
    settings: Callable[..., TrainConfig], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Of rows of reasoning traces; their limit holds the thoughts, too."""
    thoughts = "<think>\n" + "the revenue of the company was million " * 8 + "\n</think>\n\n"
    rows = [{"prompt": "revenue?", "completion": f"{thoughts}42"}, {"prompt": "year?", "completion": "7"}]
    write_lines(tmp_path / "rows.jsonl", rows)
    suite = task_prompts(
        settings(tmp_path),
        tiny_tokenizer,
        [str(tmp_path / "rows.jsonl")],
        score=named_scorer("exact"),
        items=None,
        max_new_tokens=None,
    )
    assert suite.golds == ["42", "7"]
    longest = len(tiny_tokenizer(rows[0]["completion"])["input_ids"])
    assert suite.limits == [math.ceil(1.25 * (longest + 1))] * 2  # with the token that ends it
    said = {"<think>or 41?</think>42": 1.0, "42": 1.0, "42</think>41": 0.0}
    assert {answer: suite.score(0, answer) for answer in said} == said
    assert without_thoughts("\n<think>\nIt may be 42") == ""  # cut off
    short = GeneralItem("two", "written", 1, "Say it in a word.", (Words(1, 1),), 8)
    general = general_prompts(tiny_tokenizer, [short], {})
    assert [general.score(0, said) for said in ("<think>so many words</think> Yes", "so many")] == [1.0, 0.0]


@pytest.mark.parametrize(("no_answer", "score"), [("Ei ilmoitettu.", 0.0), (None, 1.0)])
def test_what_the_scorer_can_not_know_is_told(
    settings: Callable[..., TrainConfig],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    no_answer: str | None,
    score: float,
) -> None:
    """Rows in another language say in their own words that there is no answer."""
    write_lines(tmp_path / "rows.jsonl", [{"prompt": "revenue?", "completion": "Ei ilmoitettu."}])
    suite = task_prompts(
        settings(tmp_path),
        tiny_tokenizer,
        [str(tmp_path / "rows.jsonl")],
        score=named_scorer("abstains"),
        items=None,
        max_new_tokens=8,
        no_answer=no_answer,
    )
    assert suite.score(0, "12 million") == score
    assert (suite.warning is None) == (no_answer is not None)
    assert scored_by(suite, named_scorer("exact")).warning is None


def test_questions_about_one_document_hang_together(
    settings: Callable[..., TrainConfig], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """As rows of `selfaug prepare` say it; rows that say nothing are each on their own."""
    about = [["a.md"]] * 4 + [["b.md"]] * 3 + [["b.md", "a.md"], [], None, None]
    rows = [
        {"prompt": f"question {number}?", "completion": str(number), "documents": documents}
        for number, documents in enumerate(about)
    ]
    write_lines(tmp_path / "rows.jsonl", rows)
    every = task_prompts(
        settings(tmp_path),
        tiny_tokenizer,
        [str(tmp_path / "rows.jsonl")],
        score=named_scorer("exact"),
        items=None,
        max_new_tokens=8,
    )
    assert every.together[:8] == ["a.md"] * 4 + ["b.md"] * 3 + ["b.md"]
    assert len(set(every.together[8:])) == 3
    # All of one document lost, and nothing else.
    right = list(map(str, range(len(about))))
    compared = compare_answers(every, ["no"] * 4 + right[4:], right)
    paired = compared["difference"]
    assert (paired.clusters, paired.items) == (5, 11)
    assert paired.design_effect > 2
    apart = compare_answers(replace(every, clusters=[]), ["no"] * 4 + right[4:], right)
    assert apart["difference"].clusters is None
    assert paired.difference.low < apart["difference"].difference.low
    assert compared["detectable_difference"] is None  # of as many as five
    assert "clusters" not in apart
    assert len(every.spread(5).together) == 5
    # The same prompt is answered the same each time, however often it is in the file.
    twice = replace(every, texts=[every.texts[8]] * 11, clusters=["a.md", *[""] * 10])
    assert twice.together == ["a.md", *[every.ids[1]] * 10]
    assert replace(every, no_answers=["none"]).spread(5).no_answers == ["none"]


def test_an_answer_that_was_cut_off_at_another_limit_is_made_again(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir).eval()  # it never ends an answer by itself
    short, long = (
        general_prompts(
            tiny_tokenizer,
            [replace(ITEM, id=name, choices=(), max_new_tokens=limit) for name in ("one", "two")],
            {},
        )
        for limit in (3, 6)
    )
    file, expected = (
        tmp_path / "answers.jsonl",
        answers_to(long, tmp_path / "long.jsonl", model, tiny_tokenizer, 2),
    )
    cut = answers_to(short, file, model, tiny_tokenizer, 2)
    assert all(whole.startswith(part) and whole != part for part, whole in zip(cut, expected, strict=True))
    lines = read_lines(file)
    assert [(line["limit"], line["cut_off"]) for line in lines] == [(3, True)] * 2
    # The second one ended by itself, and nobody knows its limit.
    del lines[1]["limit"]
    lines[1] |= {"answer": "the end", "cut_off": False}
    write_lines(file, lines)
    assert answers_to(long, file, model, tiny_tokenizer, 2) == [expected[0], "the end"]
    assert [line.get("limit") for line in read_lines(file)] == [6, None]
    # Another evaluation takes it no more than this one does; nor one of which no limit is known.
    (tmp_path / "other").mkdir()
    (tmp_path / "own").mkdir()
    write_lines(tmp_path / "other" / "general-base.jsonl", lines)
    _take_base_answers(tmp_path / "other", tmp_path / "own", {"general": long})
    assert [line["answer"] for line in read_lines(tmp_path / "own" / "general-base.jsonl")] == ["the end"]
    lines[1] |= {"cut_off": True}
    assert long.kept(lines) == {}
    assert list(short.kept(lines)) == ["one"]


def test_answers_end_where_the_window_does(
    settings: Callable[..., TrainConfig], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Learned positions have no place beyond it: an answer of the usual length would be an IndexError."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tiny_tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2,
            bos_token_id=None, eos_token_id=tiny_tokenizer.eos_token_id,
        )
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer.save_pretrained(tmp_path / "gpt2")
    # With the answer and the end token, the first one fills the window.
    rows = [{"prompt": "x" * length, "completion": "7"} for length in (30, 4)]
    write_lines(tmp_path / "rows.jsonl", rows)
    config = settings(tmp_path / "run")
    named = config.model.model_copy(update={"name": str(tmp_path / "gpt2")})
    task = task_prompts(
        config.model_copy(update={"model": named}),
        tiny_tokenizer,
        [str(tmp_path / "rows.jsonl")],
        score=named_scorer("exact"),
        items=None,
        max_new_tokens=20,
    )
    assert task.limits == [2, 20]
    asked = [
        SuiteRow(name, "x" * letters, "7", (), named_scorer("exact"))
        for name, letters in (("a", 9), ("b", 1))
    ]
    own = suite_file_prompts(tiny_tokenizer, asked, 9, {}, window=32)
    assert own.limits[0] == 32 - len(own.prompts[0]) < own.limits[1] == 9
    for name, suite in (("task", task), ("own", own)):
        answers_to(suite, tmp_path / f"{name}.jsonl", model, tiny_tokenizer, 2)
