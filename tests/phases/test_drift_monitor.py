"""Drift while training: measured at each checkpoint, and what ends a run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState

from selfaug.config import TrainConfig, load_config
from selfaug.errors import ConfigError
from selfaug.phases import drift_monitor
from selfaug.phases.canary import canary_problems
from selfaug.phases.drift_monitor import DriftMonitor, monitored_texts
from selfaug.phases.progress import Progress
from selfaug.phases.run_models import load_run_models
from selfaug.phases.train import Interrupted, train
from selfaug.records import read_lines, read_record
from selfaug.rundir import RunDir
from tiny_models import build

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]


def test_drift_is_measured_at_each_checkpoint(finished_run: Path) -> None:
    lines = [line for line in read_lines(finished_run / "metrics.jsonl") if "general_drift" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(line["general_drift"] > 0 and 0 <= line["general_top1_agreement"] <= 1 for line in lines)
    record = read_record(finished_run / "record.json", "train")
    assert [found["step"] for found in record["monitor"]["checkpoints"]] == [2, 4, 6]
    assert 0 < record["monitor"]["seconds"] < record["seconds"]
    # Measuring before the first step is time too.
    share = record["monitor"]["share_of_time"]
    assert 0 < share < record["monitor"]["seconds"] / record["seconds"] < 1
    assert not record["monitor"]["stopped"]


@pytest.mark.parametrize("method", ["method=lora", "dora=true", "method=osf", "method=full"])
def test_training_ends_beyond_the_drift_that_is_allowed(
    settings: Settings, tmp_path: Path, method: str
) -> None:
    config = settings(tmp_path / "run", "selfaug.alpha=0", f"lora.{method}", "selfaug.stop_at_drift=1e-12")
    told: list[Progress] = []
    record = train(config, on_progress=told.append).record
    assert record["steps"] == 2
    assert record["monitor"]["stopped"]
    assert any("stopped at step 2 of 6: drift" in progress.message for progress in told)
    # The drift that was measured is that of the model which was written, against the base model.
    base = AutoModelForCausalLM.from_pretrained(config.model.name)
    tuned = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
        if method == "method=full"
        else PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(config.model.name), tmp_path / "run" / "adapter"
        )
    )
    tokenizer = AutoTokenizer.from_pretrained(config.model.name)
    texts = monitored_texts(base, tokenizer, 2, {})
    total, count = 0.0, 0
    for ids, start in texts:
        both = [
            model(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1].double().log_softmax(-1)
            for model in (base, tuned)
        ]
        total += float((both[0].exp() * (both[0] - both[1])).sum().detach())
        count += len(ids) - start
    assert record["monitor"]["checkpoints"][0]["general_drift"] == pytest.approx(total / count, rel=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_that_drift_had_ended_does_not_train_on_when_resumed(
    settings: Settings, tmp_path: Path, method: str
) -> None:
    def config(name: str) -> TrainConfig:
        limits = (f"lora.method={method}", "selfaug.stop_at_drift=1e-12")
        rows = settings(tmp_path / name).data.train[0]
        return settings(tmp_path / name, *limits, f"data.eval={rows}")

    whole = train(config("whole")).record

    def cut(progress: Progress) -> None:
        if progress.stage == "drift":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(config("cut"), on_progress=cut)
    cut_off = Path(shutil.copytree(tmp_path / "cut", tmp_path / "cut off"))
    for logged in (True, False):
        shutil.rmtree(tmp_path / "cut")
        shutil.copytree(cut_off, tmp_path / "cut")
        metrics = tmp_path / "cut" / "metrics.jsonl"
        if not logged:  # killed between the checkpoint and its drift
            lines = [line for line in metrics.read_text().splitlines() if "general_drift" not in line]
            metrics.write_text("".join(f"{line}\n" for line in lines))
        told: list[Progress] = []
        record = train(config("cut"), resume=True, on_progress=told.append).record
        assert any("stopped at step 2 of 6: drift" in progress.message for progress in told)
        assert record["steps"] == 2
        assert record["final"] == whole["final"]
        assert record["evaluation"]["eval_nll"] == whole["evaluation"]["eval_nll"]
        assert record["noise_floor"] == whole["noise_floor"]
        found, expected = (one["monitor"]["checkpoints"] for one in (record, whole))
        assert len(found) == len(expected) == 1
        assert found[0] == pytest.approx(expected[0])
        assert [file["sha256"] for file in record["weights"]] == [file["sha256"] for file in whole["weights"]]


def test_a_resumed_run_keeps_its_base_answers(
    settings: Settings, tmp_path: Path, writing_model: Path
) -> None:
    """They end where the tokeniser ends a text."""
    model = Path(shutil.copytree(writing_model, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    written = monitored_texts(AutoModelForCausalLM.from_pretrained(model), tokenizer, 2, {})
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(written[0][0][-1])
    end = tokenizer.eos_token_id
    tokenizer.save_pretrained(model)
    config = settings(tmp_path / "run", f"model.name={model}")
    answers = RunDir(tmp_path / "run").general_answers

    def cut(progress: Progress) -> None:
        if progress.stage == "drift":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(config, on_progress=cut)
    assert not any(end in line["input_ids"][line["answer_from"] :] for line in read_lines(answers))
    before = answers.read_bytes()
    told: list[Progress] = []
    record = train(config, resume=True, on_progress=told.append).record
    assert [one["step"] for one in record["monitor"]["checkpoints"]] == [2, 4, 6]
    assert not any(progress.stage == "general prompts for drift" for progress in told)
    assert answers.read_bytes() == before


def test_every_process_goes_by_the_drift_that_the_first_has_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = get_peft_model(build("llama-tied"), LoraConfig(target_modules="all-linear"))
    monitor = DriftMonitor(model, [([3, 4, 5, 6], 2)], 0.1, [], lambda found: None)
    monkeypatch.setattr(drift_monitor, "broadcast_object_list", lambda own: [(0.5, 0.25)])
    monitor.measure(model, TrainerState(global_step=4))
    assert monitor.drift(4) == 0.5  # here it is 0: the adapter is new
    assert monitor.stopped
    monkeypatch.setattr(drift_monitor, "broadcast_object_list", lambda own: [(math.nan, 0.25)])
    monitor.measure(model, TrainerState(global_step=6))
    assert monitor.stopped


@pytest.mark.parametrize("before", [False, True])
def test_drift_of_full_fine_tuning_is_against_the_base_model_in_smaller_batches_too(before: bool) -> None:
    """Where memory is too small for eight rows: before training, or at a checkpoint."""
    texts = [([3, 4, *range(5, 7 + more)], 2) for more in range(8)]

    def refuse(_module: object, _args: object, given: dict[str, torch.Tensor]) -> None:
        if len(given["input_ids"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def drift(*small: bool) -> float | None:
        """Of a model that has been changed, with little memory before, and after."""
        model = build("llama-untied")
        hooks = [model.register_forward_pre_hook(refuse, with_kwargs=True)] if small[0] else []
        monitor = DriftMonitor(model, texts, None, [], lambda found: None)
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        if small[1]:
            model.register_forward_pre_hook(refuse, with_kwargs=True)
        monitor.measure(model, TrainerState(global_step=2))
        monitor._texts = [([7, 8, 9], 1)]
        with pytest.raises(RuntimeError, match="the base model had not seen"):
            monitor.measure(model, TrainerState(global_step=4))
        return monitor.drift(2)

    assert drift(before, not before) == pytest.approx(drift(False, False), rel=1e-4)


def test_a_stop_that_could_not_be_kept_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs selfaug\.monitor_prompts"):
        settings(tmp_path / "run", "selfaug.stop_at_drift=0.1", "selfaug.monitor_prompts=0")


def test_full_fine_tuning_in_16_bits_measures_before_as_after(settings: Settings, tmp_path: Path) -> None:
    """Weights in 32 bits, products in 16: what doesn't move has no drift, and the answers come back when served."""
    still = (
        "lora.method=full",
        "model.dtype=bfloat16",
        "train.learning_rate=1e-30",
        "selfaug.monitor_prompts=4",
    )
    record = train(settings(tmp_path / "run", *still, "train.steps=1", "train.save_steps=1")).record
    assert record["monitor"]["checkpoints"][-1]["general_drift"] == 0
    run = RunDir(tmp_path / "run")
    assert read_record(run.canary, "canary")["dtype"] == "bfloat16"
    config = load_config(run.config)
    _, tuned = load_run_models(run, config, run.model, device=torch.device("cpu"))
    assert tuned.dtype is torch.bfloat16
    assert canary_problems(run, tuned, None) == []
