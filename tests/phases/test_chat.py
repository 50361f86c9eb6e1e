from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from selfaug.errors import DataError, ModelError, StorageError
from selfaug.model.generate import generate_greedy
from selfaug.phases.chat import TooLongError, open_chat


def test_base_and_tuned_answer_and_both_are_greedy(finished_run: Path) -> None:
    chat = open_chat(finished_run, max_new_tokens=6, device="cpu")
    first = chat.ask("the revenue?")
    chat.start_anew()
    assert chat.ask("the revenue?") == first
    assert chat.step is None
    # Six steps at a high learning rate: the tuned model says something else.
    assert first.base != first.tuned


def test_a_conversation_goes_on_and_can_start_anew(finished_run: Path) -> None:
    chat = open_chat(finished_run, system="be short", max_new_tokens=2, device="cpu")
    chat.ask("one")
    chat.ask("two")
    assert [turn["role"] for turn in chat._tuned_turns] == ["user", "assistant"] * 2
    chat.start_anew()
    assert chat._base_turns == chat._tuned_turns == []


def test_the_oldest_turns_make_room_where_the_window_is_full(finished_run: Path) -> None:
    chat = open_chat(finished_run, system="be short", max_new_tokens=2, device="cpu")
    assert chat.window == 256
    answers = [chat.ask("the revenue of the company") for _ in range(12)]
    assert answers[0].dropped == 0
    assert sum(one.dropped for one in answers) > 0
    assert chat._base_turns[0::2] == chat._tuned_turns[0::2]
    assert len(chat._base_turns) == 2 * (12 - sum(one.dropped for one in answers))
    for turns in (chat._base_turns, chat._tuned_turns):
        assert len(chat._ids(turns[:-2], "the revenue of the company")) <= 254
    before = list(chat._tuned_turns)
    with pytest.raises(TooLongError, match=r"leave no room for an answer in the model's window of 256\."):
        chat.ask("the revenue of the company " * 100)
    assert chat._tuned_turns == before


def test_an_answer_as_long_as_the_window_gets_what_the_question_leaves(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = open_chat(finished_run, max_new_tokens=256, device="cpu")
    asked: list[int] = []

    def record(*arguments: Any, max_new_tokens: int) -> list[str]:
        (ids,) = arguments[2]
        asked.append(len(ids) + max_new_tokens)
        return generate_greedy(*arguments, max_new_tokens=max_new_tokens)

    monkeypatch.setattr("selfaug.phases.chat.generate_greedy", record)
    assert [chat.ask("the revenue").dropped for _ in range(2)] == [0, 1]
    assert asked == [256] * 4


def test_a_window_that_nobody_knows_bounds_nothing(finished_run: Path) -> None:
    chat = open_chat(finished_run, max_new_tokens=2, device="cpu")
    chat.window = None
    chat.ask("the revenue of the company")
    assert chat.ask("the revenue of the company " * 100).dropped == 0


def test_a_system_message_that_the_template_refuses_is_told(finished_run: Path) -> None:
    chat = open_chat(finished_run, system="be short", max_new_tokens=2, device="cpu")
    chat.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(DataError, match="refuses these messages: System role not supported"):
        chat.ask("one")


def test_an_unfinished_run_speaks_through_its_last_checkpoint(copied_run: Path) -> None:
    (copied_run / "record.json").unlink()
    shutil.rmtree(copied_run / "adapter")
    assert open_chat(copied_run, device="cpu").step == 6
    shutil.rmtree(copied_run / "checkpoints")
    with pytest.raises(StorageError, match="has no trained weights yet"):
        open_chat(copied_run, device="cpu")


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_an_adapter_that_can_not_be_loaded_says_where_it_is(copied_run: Path, damage: str) -> None:
    weights = copied_run / "adapter" / "adapter_model.safetensors"
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"can't load the adapter in .*copied/adapter") as error:
        open_chat(copied_run)
    assert "adapter_model.safetensors" in str(error.value.hint)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a selfaug run"):
        open_chat(tmp_path)
