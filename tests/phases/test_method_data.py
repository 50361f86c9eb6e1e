"""What the base model writes for some methods: rewritten only where it says the same, in the form it came in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfaug.data import load_rows
from selfaug.errors import ModelError
from selfaug.phases import method_data
from selfaug.phases.method_data import write_distilled_rows, write_self_dialogues
from selfaug.records import read_lines


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
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = settings(tmp_path / "run", f"data.train={source}")
    asked: list[str] = []

    def write(model, tokenizer, prompts, **_):
        asked.extend(tokenizer.decode(ids) for ids in prompts)
        return [" It was 12 million. ", "It is green, I think.", "five"]

    monkeypatch.setattr(method_data, "generate_greedy", write)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    count = write_distilled_rows(tmp_path / "new.jsonl", config, None, tokenizer, 8, lambda *_: None)
    assert count == 2  # "five" lacks the number of the completion, which stays
    assert "A correct answer is: 12 million" in asked[0]
    assert "It was 12 million." in asked[0]
    written = read_lines(tmp_path / "new.jsonl")
    assert written[0] == {**rows[0], "answer": "It was 12 million."}
    assert written[1]["completion"][0]["content"] == "It is green, I think."
    assert written[2] == rows[2]
    before, after = (load_rows([file]).rows for file in (source, tmp_path / "new.jsonl"))
    assert [row.prompt for row in after] == [row.prompt for row in before]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_that_writes_nothing_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    # With a tied head and random weights, it repeats the newline at the prompt's end.
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    with pytest.raises(ModelError, match="are all empty"):
        write_self_dialogues(tmp_path / "d.jsonl", model, tokenizer, 3, 0, lambda *_: None)
    assert not (tmp_path / "d.jsonl").exists()
