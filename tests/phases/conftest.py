"""What the tests of comparison and balance share, those of re-alignment, and those of prepared documents."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from company_reports import configured, write_questions, write_reports
from realigning import asking
from selfaug.eval.general_suite import GeneralItem
from selfaug.phases import balance_search, bench, method_bench, method_data
from selfaug.phases.bench import BenchSettings
from selfaug.phases.prepare import prepare
from selfaug.phases.suites import select_items
from selfaug.phases.train import train
from selfaug.records import read_record
from tiny_models import build


@pytest.fixture
def asked(tiny_rows: Path) -> BenchSettings:
    return BenchSettings(
        dev=[str(tiny_rows)],
        test=[str(tiny_rows)],
        level="1",
        scorer="f1",
        general_items=6,
        task_items=4,
        max_new_tokens=4,
        batch_size=4,
    )


def short_items(*which: Any) -> list[GeneralItem]:
    """General requests as they are selected, with shorter answers: a random model never ends one by itself."""
    return [replace(item, max_new_tokens=min(item.max_new_tokens, 12)) for item in select_items(*which)]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Real trainings, without the seconds that a new process needs; returns the folders of the runs.

    Nor do the runs have canary sets, which only a server asks for, and all general answers are short.
    """
    monkeypatch.setattr("selfaug.phases.train.write_canary", lambda *_: None)
    monkeypatch.setattr(bench, "select_items", short_items)
    # Dialogues fit into the tiny model's rows: it never ends one by itself.
    monkeypatch.setattr(method_data, "_DIALOGUE_TOKENS", 80)
    done: list[str] = []

    def run(config, stage, on_progress):
        folder = Path(config.run.output)
        if (folder / "record.json").exists():
            return read_record(folder / "record.json", "train")
        done.append(folder.name)
        return train(config).record

    for module in (method_bench, balance_search):
        monkeypatch.setattr(module, "train_in_own_process", run)
    return done


@pytest.fixture(scope="module")
def writing_model(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head of its own: with a tied one, it repeats the last token of the prompt, a newline."""
    folder = tmp_path_factory.mktemp("models") / "writing"
    shutil.copytree(tiny_model_dir, folder)
    torch.manual_seed(1)
    model_config = LlamaConfig.from_pretrained(tiny_model_dir, tie_word_embeddings=False)
    LlamaForCausalLM(model_config).save_pretrained(folder)
    return folder


@pytest.fixture
def states_dir(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """Folder with a tiny Mamba."""
    folder = tmp_path / "mamba"
    build("mamba", vocab_size=len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reports(tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("questions") / "pairs.jsonl")


@pytest.fixture(scope="module")
def prepared(reports: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Don't change it: it is shared."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    prepare(configured(reports, questions, folder, "split.validation=0.2", "split.test=0.25"))
    return folder


@pytest.fixture
def new_rows(tiny_rows: Path, tmp_path: Path) -> Path:
    return asking(tmp_path / "new.jsonl", "profit", tiny_rows)


@pytest.fixture
def held_out(tiny_rows: Path, tmp_path: Path) -> Path:
    return asking(tmp_path / "held-out.jsonl", "loss", tiny_rows)
