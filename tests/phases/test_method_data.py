"""What the base model writes for some methods: rewritten only where it says the same, in the form it came in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfaug.data import load_rows
from selfaug.errors import ModelError
from selfaug.phases import method_bench, method_data, work_time
from selfaug.phases.method_bench import MethodBench
from selfaug.phases.method_data import forget_parts, write_distilled_rows, write_self_dialogues
from selfaug.phases.methods import METHODS
from selfaug.phases.train import train
from selfaug.records import read_lines, write_lines
from selfaug.train import SelfAugTrainer


def test_rows_keep_their_form_and_what_they_say(
    settings, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {
            "id": "r",
            "question": "How much?",
            "context": ["It was 12 million.", "Rain."],
            "answer": "12 million",
        },
        {
            "id": "m",
            "messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "Green"}],
        },
        {"id": "t", "prompt": "Two and two:", "completion": "4"},
        {"id": "u", "prompt": "Three and three:", "completion": " 6"},
        {"id": "v", "prompt": "Four and four:", "completion": " 8"},
    ]
    source = tmp_path / "rows.jsonl"
    write_lines(source, rows)
    config = settings(tmp_path / "run", f"data.train={source}")
    asked: list[str] = []
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    monkeypatch.setattr(method_data, "end_tokens", lambda *_: frozenset())
    monkeypatch.setattr(
        method_data,
        "generate_greedy_ids",
        writing(
            tokenizer, [" It was 12 million. ", "It is green, I think.", "five", "That is 6.", "8"], asked
        ),
    )
    counts = write_distilled_rows(tmp_path / "new.jsonl", config, None, tokenizer, 99, 0, lambda *_: None)
    # "five" lacks the number of the completion, which stays.
    assert counts == {"rows": 3, "rows_asked": 5, "of_rows": 5, "texts_cut_off": 0}
    assert "A correct answer is: 12 million" in asked[0]
    assert "It was 12 million." in asked[0]
    written = read_lines(tmp_path / "new.jsonl")
    assert written[0] == {**rows[0], "answer": "It was 12 million."}
    assert written[1]["completion"][0]["content"] == "It is green, I think."
    assert written[2:] == [rows[2], {**rows[3], "completion": " That is 6."}, rows[4]]
    before, after = (load_rows([file]).rows for file in (source, tmp_path / "new.jsonl"))
    assert [row.prompt for row in after] == [row.prompt for row in before]


def test_of_rows_whose_every_turn_is_learnt_all_turns_still_are(
    settings, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [("user", "Which?"), ("assistant", "Blue"), ("user", "And then?"), ("assistant", "Green")]
    row = {"id": "m", "messages": [{"role": role, "content": text} for role, text in turns]}
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(row) + "\n", encoding="utf-8")
    config = settings(tmp_path / "run", f"data.train={source}", "data.every_assistant_turn=true")
    asked: list[str] = []
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    monkeypatch.setattr(method_data, "end_tokens", lambda *_: frozenset())
    monkeypatch.setattr(
        method_data, "generate_greedy_ids", writing(tokenizer, ["It is blue.", "It is green."], asked)
    )
    counts = write_distilled_rows(tmp_path / "new.jsonl", config, None, tokenizer, 99, 0, lambda *_: None)
    assert counts == {"rows": 1, "rows_asked": 1, "of_rows": 1, "texts_cut_off": 0}
    assert ["A correct answer is: Blue" in one for one in asked] == [True, False]
    assert "Blue" in asked[1]  # what was said before stays as it was
    (written,) = load_rows([tmp_path / "new.jsonl"], every_assistant_turn=True).rows
    assert written.every_assistant_turn
    assert [turn["content"] for turn in (*written.prompt, *written.completion)] == [
        "Which?", "It is blue.", "And then?", "It is green.",
    ]  # fmt: skip


def test_further_questions_of_a_row_are_answered_anew_too(
    settings, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {
        "id": "r", "question": "How much?", "context": ["It was 12 million.<|im_end|>", "Rain in May."],
        "answer": "12 million [1]", "gold": 1,
        "follow_ups": [
            {"question": "When?", "answer": "May [2]", "gold": 2},
            {"question": "Why?", "answer": "Not said", "gold": None},
        ],
    }  # fmt: skip
    source = tmp_path / "rows.jsonl"
    write_lines(source, [row])
    config = settings(tmp_path / "run", f"data.train={source}")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    monkeypatch.setattr(method_data, "end_tokens", lambda *_: frozenset())
    texts = ["They took in 12 million [1].", "It rained in spring.", "This is not said."]
    asked: list[str] = []
    monkeypatch.setattr(method_data, "generate_greedy_ids", writing(tokenizer, texts, asked))
    write_distilled_rows(tmp_path / "new.jsonl", config, None, tokenizer, 99, 0, lambda *_: None)
    (written,) = read_lines(tmp_path / "new.jsonl")
    assert written["answer"] == "They took in 12 million [1]."
    assert [one["answer"] for one in written["follow_ups"]] == ["May [2]", "This is not said."]
    assert [one["gold"] for one in written["follow_ups"]] == [2, None]
    assert {**written, "answer": 0, "follow_ups": 0} == {**row, "answer": 0, "follow_ups": 0}
    # What is asked is what training will show, and a passage ends no turn.
    assert all("It was 12 million.< |im_end|>" in one for one in asked)


def test_texts_at_the_token_limit_are_not_taken_and_others_are_written_once(
    settings, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, new = tmp_path / "rows.jsonl", tmp_path / "new.jsonl"
    rows = [{"id": name, "prompt": f"{name}?", "completion": name} for name in ("green", "blue", "red")]
    write_lines(source, rows)
    config = settings(tmp_path / "run", f"data.train={source}")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    texts = ["It is green.", "It is blue, which is", "It is red."]
    limit = len(tokenizer(texts[1])["input_ids"])
    asked: list[str] = []
    monkeypatch.setattr(method_data, "end_tokens", lambda *_: frozenset())

    def write(*given: str | None) -> dict[str, int]:
        monkeypatch.setattr(method_data, "generate_greedy_ids", writing(tokenizer, given, asked))
        return write_distilled_rows(new, config, None, tokenizer, limit, 0, lambda *_: None)

    with pytest.raises(KeyboardInterrupt):
        write(*texts[:2], None)
    assert not new.exists()
    asked.clear()
    assert write(texts[2]) == {"rows": 2, "rows_asked": 3, "of_rows": 3, "texts_cut_off": 1}
    assert len(asked) == 1
    assert "red?" in asked[0]
    assert [row["completion"] for row in read_lines(new)] == ["It is green.", "blue", "It is red."]
    # They stay, for other seeds as well.
    forget_parts(new)
    assert write() == {"rows": 2, "rows_asked": 3, "of_rows": 3, "texts_cut_off": 1}


def test_only_rows_that_a_run_trains_on_are_rewritten(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which ones these are is taken from trainings, not from what is under test."""
    rows = [{"id": f"r{i}", "prompt": f"number {i}?", "completion": f" {i}"} for i in range(40)]
    source = tmp_path / "rows.jsonl"
    write_lines(source, rows)
    tokenizer = AutoTokenizer.from_pretrained(settings(tmp_path).model.name)
    monkeypatch.setattr(method_data, "end_tokens", lambda *_: frozenset())
    asked: list[str] = []

    def rewrite(model: Any, prompts: Any, *, on_answer: Callable[[int, list[int]], None], **_: Any) -> None:
        for place, ids in enumerate(prompts):
            asked.append(tokenizer.decode(ids))
            number = asked[-1].partition("number ")[2].partition("?")[0]
            on_answer(place, tokenizer(f"It is {number}.")["input_ids"])

    def write(seed: int, *more: str) -> dict[str, int]:
        asked.clear()
        config = settings(tmp_path / "run", f"data.train={source}", "train.steps=2", *more)
        return write_distilled_rows(
            tmp_path / f"new-{seed}.jsonl", config, None, tokenizer, 99, seed, lambda *_: None
        )

    def rewritten(seed: int) -> set[int]:
        lines = read_lines(tmp_path / f"new-{seed}.jsonl")
        found = {i for i, line in enumerate(lines) if line["completion"] == f" It is {i}."}
        assert [line for i, line in enumerate(lines) if i not in found] == [
            row for i, row in enumerate(rows) if i not in found
        ]
        return found

    seen: list[str] = []
    take = SelfAugTrainer.get_batch_samples

    def taken(self: Any, *given: Any) -> Any:
        batches, counts = take(self, *given)
        seen.extend(tokenizer.decode(ids) for batch in batches for ids in batch["input_ids"])
        return batches, counts

    monkeypatch.setattr(method_data, "generate_greedy_ids", rewrite)
    monkeypatch.setattr(SelfAugTrainer, "get_batch_samples", taken)
    before: set[int] = set()
    for seed in (0, 7):
        assert write(seed) == {"rows": 8, "rows_asked": 8, "of_rows": 40, "texts_cut_off": 0}
        # What was written for one seed is there for the next.
        assert len(asked) == len(rewritten(seed) - before)
        before |= rewritten(seed)
        seen.clear()
        train(
            settings(
                tmp_path / f"run-{seed}", f"data.train={tmp_path / f'new-{seed}.jsonl'}", "train.steps=2",
                f"train.seed={seed}", "selfaug.alpha=0", "selfaug.monitor_prompts=0",
            )
        )  # fmt: skip
        assert {int(text.partition("number ")[2].partition("?")[0]) for text in seen} == rewritten(seed)
    # Where it isn't known which rows a run reaches, all are.
    (tmp_path / "held.jsonl").write_text('{"prompt": "the first?", "completion": "yes"}\n', encoding="utf-8")
    held_out = (f"data.eval={tmp_path / 'held.jsonl'}", "data.skip_held_out=true")
    for seed, more in enumerate(
        (
            ["train.steps=30"],
            ["train.packing=true"],
            ["train.group_by_length=true"],
            ["data.skip_bad_rows=true"],
            held_out,
        )
    ):
        assert write(10 + seed, *more)["rows_asked"] == 40


def writing(tokenizer: Any, texts: Sequence[str | None], asked: list[str]) -> Callable[..., list[list[int]]]:
    """Stands in for generation; None is where it is stopped."""

    def write(model: Any, prompts: Any, *, on_answer: Callable[[int, list[int]], None], **_: Any) -> Any:
        asked.extend(tokenizer.decode(ids) for ids in prompts)
        for place, text in enumerate(texts):
            if text is None:
                raise KeyboardInterrupt
            on_answer(place, tokenizer(text)["input_ids"])

    return write


def test_dialogues_that_ended_by_themselves_are_enough_if_they_are_half(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut-off answer as an assistant's turn would teach to stop in the middle of a sentence."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    monkeypatch.setattr(method_data, "_DIALOGUE_TOKENS", 6)
    short, whole = tokenizer("million")["input_ids"], tokenizer("the revenue of the company in the year")
    cut_off = whole["input_ids"][:6]
    assert len(short) < 6 == len(cut_off)
    file = tmp_path / "d.jsonl"
    given: list[Any] = []
    asked: list[str] = []
    monkeypatch.setattr(method_data, "end_tokens", lambda *_: frozenset())
    monkeypatch.setattr(method_data, "self_requests", own_requests(given))
    for answers, counts, taken in (
        ([short, cut_off, short, cut_off], {"rows": 2, "rows_cut_off": 0}, ["request 0", "request 2"]),
        ([cut_off, short, cut_off, cut_off], {"rows": 2, "rows_cut_off": 1}, ["request 1", "request 0"]),
        ([cut_off] * 4, {"rows": 2, "rows_cut_off": 2}, ["request 0", "request 1"]),
    ):
        texts = [tokenizer.decode(answer) for answer in answers]
        assert [tokenizer(text)["input_ids"] for text in texts] == answers
        monkeypatch.setattr(method_data, "generate_greedy_ids", writing(tokenizer, texts, asked))
        thinking = {"enable_thinking": False}
        assert write_self_dialogues(file, None, tokenizer, 4, 0, thinking, lambda *_: None) == counts
        assert [row["messages"][0]["content"] for row in read_lines(file)] == taken
        forget_parts(file)
    assert given == [{"enable_thinking": False}] * 3


def own_requests(given: list[Any]) -> Callable[..., list[str]]:
    """Stands in for the model's own requests."""

    def requests(model: Any, tokenizer: Any, count: int, **named: Any) -> list[str]:
        given.append(named["template_arguments"])
        return [f"request {number}" for number in range(count)]

    return requests


def test_dialogues_that_were_written_are_not_written_again(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    file, asked, given = tmp_path / "d.jsonl", [], []
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(method_data, "end_tokens", lambda *_: frozenset())
    monkeypatch.setattr(method_data, "self_requests", own_requests(given))

    def write(*texts: str | None) -> dict[str, int]:
        monkeypatch.setattr(method_data, "generate_greedy_ids", writing(tokenizer, texts, asked))
        return write_self_dialogues(file, None, tokenizer, 3, 0, {}, lambda *at: seen.append(at))

    with pytest.raises(KeyboardInterrupt):
        write("First.", "Second.", None)
    assert not file.exists()
    asked.clear()
    with (tmp_path / "d.parts.jsonl").open("a") as parts:
        parts.write('{"prompt": "killed while wri')
    assert write("Third.") == {"rows": 3, "rows_cut_off": 0}
    assert len(given) == len(asked) == 1
    assert "request 2" in asked[0]
    assert [row["messages"][1]["content"] for row in read_lines(file)] == ["First.", "Second.", "Third."]
    forget_parts(file)
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]


@pytest.mark.parametrize(
    ("writer", "method"), [("write_distilled_rows", "distilled"), ("write_self_dialogues", "sa-sft")]
)
def test_time_of_writing_is_that_of_all_processes(
    writer: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(work_time.time, "monotonic", lambda: now[0])
    (tmp_path / "data").mkdir()
    bench: Any = SimpleNamespace(
        folder=tmp_path, config=SimpleNamespace(data=SimpleNamespace(chat_template_kwargs={})),
        settings=SimpleNamespace(max_new_tokens=8), tokenizer=None,
        base_model=lambda: None, report=lambda stage: None,
    )  # fmt: skip
    stops = [True, False]

    def rewrite(*_: Any) -> dict[str, int]:
        now[0] += 60
        if stops.pop(0):
            raise KeyboardInterrupt
        return {"rows": 3, "of_rows": 4, "texts_cut_off": 0}

    monkeypatch.setattr(method_bench, writer, rewrite)
    with pytest.raises(KeyboardInterrupt):
        MethodBench(bench, 0).written_data(METHODS[method], 0)
    found = MethodBench(bench, 0).written_data(METHODS[method], 0)
    assert found is not None
    assert found[1] == {"rows": 3, "of_rows": 4, "texts_cut_off": 0, "seconds": 120}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_that_writes_nothing_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    # With a tied head and random weights, it repeats the newline at the prompt's end.
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    with pytest.raises(ModelError, match="are all empty"):
        write_self_dialogues(tmp_path / "d.jsonl", model, tokenizer, 3, 0, {}, lambda *_: None)
    assert not (tmp_path / "d.jsonl").exists()
