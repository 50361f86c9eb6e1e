"""What a training writes, and what it is trained on: settings, rows and models of many kinds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from selfaug.config import TrainConfig, load_config
from selfaug.errors import ConfigError, DivergedError, SelfAugError
from selfaug.model.loading import load_model
from selfaug.model.reference import AdapterOff
from selfaug.phases.canary import canary_problems
from selfaug.phases.export import export
from selfaug.phases.inputs import load_training_data
from selfaug.phases.parameter_counts import adapter_parameters
from selfaug.phases.progress import Progress
from selfaug.phases.run_models import load_run_models
from selfaug.phases.train import train
from selfaug.phases.trainer_setup import base_model
from selfaug.phases.training_checks import CheckedInputs, checked_inputs
from selfaug.records import read_lines, read_record, write_lines
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]


def test_a_run_folder_holds_what_is_promised(finished_run: Path) -> None:
    run = RunDir.open(finished_run)
    assert run.is_complete()
    assert {entry.name for entry in run.path.iterdir()} == {
        "config.yaml",
        "started.json",
        "learnt.json",
        "plan.json",
        "metrics.jsonl",
        "general_answers.jsonl",
        "checkpoints",
        "canary.json",
        "adapter",
        "record.json",
    }
    assert run.latest_complete_checkpoint() == run.checkpoints / "checkpoint-6"
    # Pickles run code when they are loaded: none is in what is handed on.
    assert sorted(entry.suffix for entry in run.adapter.iterdir()) == sorted(
        [".safetensors", ".json", ".json", ".json", ".json", ".jinja", ".md"]
    )
    assert load_config(run.config).run.output == str(finished_run)
    assert [file.parent for file in finished_run.rglob("README.md")] == [run.adapter]


def test_no_steps_between_evaluations_are_none_at_all(settings, tiny_rows: Path, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", "train.steps=1", f"data.eval={tiny_rows}", "train.eval_steps=0")
    record = train(config).record
    assert record["data"]["eval"]["rows"] == 24
    assert record["evaluation"] == {}
    assert not any("eval_nll" in line for line in read_lines(tmp_path / "run" / "metrics.jsonl"))


def test_metrics_has_one_line_a_step_and_the_evaluations(finished_run: Path) -> None:
    lines = read_lines(finished_run / "metrics.jsonl")
    steps = [line for line in lines if "nll" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[0]["noise_floor"] == 0.0
    assert steps[-1]["alignment_loss"] > 0
    assert {"nll", "alignment_loss", "alpha", "learning_rate"} <= steps[-1].keys()
    assert [line["step"] for line in lines if "eval_nll" in line] == [2, 4, 6]
    assert steps[-1]["nll"] < steps[0]["nll"]


def test_the_record_says_what_was_trained_on_what(finished_run: Path, tiny_rows: Path) -> None:
    record = read_record(finished_run / "record.json", "train")
    assert record["steps"] == 6
    assert record["noise_floor"] == 0.0
    assert record["model"]["parameters"] == 28_000
    assert record["model"]["trainable"] == 16_384
    assert record["data"]["train"]["rows"] == 24
    assert record["data"]["train"]["forms"] == {"retrieval": 24}
    assert len(record["data"]["train"]["sources"][0]["sha256"]) == 64
    last = read_lines(finished_run / "metrics.jsonl")
    assert record["final"]["nll"] == next(line["nll"] for line in last if line["step"] == 6 and "nll" in line)
    assert record["evaluation"]["eval_nll"] == [line["eval_nll"] for line in last if "eval_nll" in line][-1]
    assert record["weights"][0]["file"] == "adapter/adapter_model.safetensors"
    assert record["environment"]["versions"]["torch"] == torch.__version__.split("+")[0] or record[
        "environment"
    ]["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_plain_peft_loads_the_adapter_and_the_tuned_model_differs(
    finished_run: Path, tiny_model_dir: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "adapter")
    ids = torch.tensor([tokenizer("the revenue")["input_ids"]])
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, finished_run / "adapter")(ids).logits
    assert not torch.equal(before, after)


def test_the_model_card_has_the_headings_of_the_hub_and_no_paths(finished_run: Path) -> None:
    card = (finished_run / "adapter" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "peft"
    assert "base_model" not in front  # a folder is no id on the hub, and the hub refuses it there
    for heading in (
        "# Model Card for",
        "## Model Details",
        "## Uses",
        "## Bias, Risks, and Limitations",
        "## How to Get Started with the Model",
        "## Training Details",
        "## Evaluation",
    ):
        assert heading in card
    assert str(finished_run.parent) not in card
    assert "rows.jsonl" in card


def test_only_the_first_process_of_a_new_run_looks_for_the_prompts_that_are_learnt(
    copied_run: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads all the text once more."""

    def reached(what: str) -> Callable[..., None]:
        def stop(*_: object, **__: object) -> None:
            raise RuntimeError(what)

        return stop

    monkeypatch.setattr("selfaug.phases.inputs.learnt_digests", reached("prompts"))
    monkeypatch.setattr("selfaug.phases.trainer_setup.load_base_model", reached("model"))
    with pytest.raises(RuntimeError, match="prompts"):
        train(settings(tmp_path / "run"))
    (copied_run / "record.json").unlink()
    with pytest.raises(RuntimeError, match="model"):
        train(load_config(copied_run / "config.yaml", {"--output": str(copied_run)}), resume=True)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RuntimeError, match="model"):
        train(settings(tmp_path / "run"))


def test_full_fine_tuning_writes_a_model_that_loads(tmp_path: Path, settings: Settings) -> None:
    train(settings(tmp_path / "run", "lora.method=full", "train.steps=2", "train.learning_rate=1e-3"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model.config.hidden_size == 32
    assert not (tmp_path / "run" / "adapter").exists()


def test_sampling_values_that_the_model_ignores_do_not_end_a_full_fine_tuning(
    tmp_path: Path, settings: Settings, tiny_model_dir: Path
) -> None:
    """transformers would refuse them when the first checkpoint is saved."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    described = {"eos_token_id": 2, "pad_token_id": 2, "temperature": 0.9, "top_p": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(described), encoding="utf-8")
    more = ("lora.method=full", "train.steps=2", "train.learning_rate=1e-3", f"model.name={folder}")
    train(settings(tmp_path / "run", *more))
    export(tmp_path / "run", tmp_path / "exported")
    written = json.loads((tmp_path / "exported" / "generation_config.json").read_text(encoding="utf-8"))
    assert "temperature" not in written


@pytest.mark.parametrize(("layout", "reference"), [("packing", "cache"), ("padding_free", "adapter_off")])
def test_rows_can_be_packed_or_joined_without_padding(
    tmp_path: Path, settings: Settings, layout: str, reference: str
) -> None:
    cache = (f"selfaug.reference={reference}", f"selfaug.reference_cache_dir={tmp_path / 'cache'}")
    result = train(settings(tmp_path / "run", f"train.{layout}=true", "train.steps=3", *cache))
    assert result.record["steps"] == 3
    assert result.record["noise_floor"] < 1e-6
    assert result.record["final"]["alignment_loss"] > 0


def test_rows_of_like_length_share_a_step(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def keeping(*arguments: Any, **more: Any) -> CheckedInputs:
        read.append(checked_inputs(*arguments, **more))
        return read[-1]

    monkeypatch.setattr("selfaug.phases.train.checked_inputs", keeping)
    result = train(settings(tmp_path / "run", "train.group_by_length=true", "train.steps=3"))
    assert result.record["steps"] == 3
    assert result.record["settings"]["train"]["group_by_length"] is True
    # The trainer has the rows, so they aren't held a second time; the canary set has some of them.
    assert read[0].data.train.rows == []
    canary = read_record(RunDir(result.run).canary, "canary")
    assert {f"task {number}" for number in range(1, 5)} <= {one["id"] for one in canary["prompts"]}


def test_a_model_of_states_trains_to_the_end(settings: Settings, states_dir: Path, tmp_path: Path) -> None:
    few = ("train.steps=1", "lora.target_modules=[all-linear]", "selfaug.monitor_prompts=1")
    config = settings(tmp_path / "run", f"model.name={states_dir}", *few)
    train(config)
    run = RunDir.open(tmp_path / "run")
    trained = load_file(run.adapter / "adapter_model.safetensors")
    assert any("in_proj" in name for name in trained)
    assert not any("out_proj" in name for name in trained)  # its kernels don't call that layer
    # What was estimated is what was trained.
    assert adapter_parameters(load_model(str(states_dir)), config) == sum(map(torch.numel, trained.values()))
    assert run.is_complete()
    _, tuned = load_run_models(run, config, run.adapter, device=torch.device("cpu"))
    assert canary_problems(run, tuned, AdapterOff(tuned)) == []


def test_the_size_of_the_cache_is_said(tmp_path: Path, settings: Settings) -> None:
    told: list[Progress] = []
    cached = ("selfaug.reference=cache", f"selfaug.reference_cache_dir={tmp_path / 'cache'}", "train.steps=1")
    train(settings(tmp_path / "run", *cached), on_progress=told.append)
    said = [progress for progress in told if progress.stage == "reference cache"]
    assert said[0].message == f"the reference cache takes 0.4 MB in {tmp_path / 'cache'}."
    assert said[1].total == 24


def test_a_run_that_diverges_ends_with_an_error_that_says_so(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(DivergedError, match="training has diverged: at step"):
        train(
            settings(tmp_path / "run", "train.learning_rate=1e30", "train.max_grad_norm=0", "train.warmup=0")
        )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["nll"] > 0


def test_no_checkpoint_is_saved_once_a_run_has_diverged(tmp_path: Path, settings: Settings) -> None:
    """Nor is it where the steps in between aren't logged; and what is there can be gone on with."""
    config = settings(
        tmp_path / "run", "train.learning_rate=1e30", "train.max_grad_norm=0", "train.warmup=0",
        "train.logging_steps=6", "train.save_steps=1",
    )  # fmt: skip
    for resume in (False, True):
        with pytest.raises(SelfAugError, match="training has diverged: at step 2,"):
            train(config, resume=resume)
        checkpoints = list((tmp_path / "run" / "checkpoints").iterdir())
        assert [checkpoint.name for checkpoint in checkpoints] == ["checkpoint-1"]
        kept = load_file(checkpoints[0] / "adapter_model.safetensors")
        assert all(tensor.isfinite().all() for tensor in kept.values())


def test_rows_in_both_sets_are_pointed_out(finished_run: Path, tmp_path: Path, settings: Settings) -> None:
    told: list[Progress] = []
    config = settings(tmp_path / "run", "train.steps=1", f"data.eval={settings(tmp_path).data.train[0]}")
    train(config, on_progress=told.append)
    assert any("24 of 24 evaluation rows are training rows" in progress.message for progress in told)
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == [
        "data", "warning", "model", "general prompts for drift", "training", "drift", "saving",
    ]  # fmt: skip


def test_general_rows_are_mixed_in_at_their_share(
    settings: Settings, tmp_path: Path, tiny_rows: Path
) -> None:
    config = settings(tmp_path / "run", "data.replay=embedded", "data.replay_share=0.4", "selfaug.alpha=0")
    record = train(config).record
    replay = record["data"]["replay"]
    assert replay["rows_replayed"] == round(24 * 0.4 / 0.6)
    assert replay["rows_skipped"] > 0  # the tiny model's window is short
    data = load_training_data(config)
    assert len(data.train.rows) == 24 + 16
    assert [row.input_ids for row in data.train.rows] == [
        row.input_ids for row in load_training_data(config).train.rows
    ]
    # Their order is the seed's, and each is taken once before one is taken twice.
    other = load_training_data(settings(tmp_path / "b", "data.replay=embedded", "train.seed=1"))
    assert other.train.rows[24:] != data.train.rows[24 : 24 + len(other.train.rows[24:])]
    few = tmp_path / "few.jsonl"
    write_lines(few, ({"prompt": f"Say {word}.", "completion": word} for word in ("yes", "no", "why")))
    repeated = load_training_data(
        settings(tmp_path / "c", f'data.replay=["{few}"]', "data.replay_share=0.2")
    ).train.rows[24:]
    assert len(repeated) == 6
    assert len({tuple(row.input_ids) for row in repeated[:3]}) == 3

    # A resumed run must have the same general rows.
    (tmp_path / "run" / "record.json").unlink()
    text = few.read_text(encoding="utf-8")
    config = settings(
        tmp_path / "d", f'data.replay=["{few}"]', "train.steps=2", "train.save_steps=1", "selfaug.alpha=0"
    )
    train(config)
    (tmp_path / "d" / "record.json").unlink()
    few.write_text(text.replace("why", "how"), encoding="utf-8")
    with pytest.raises(ConfigError, match="can't be resumed"):
        train(config, resume=True)


def test_weights_can_be_constrained_instead_of_outputs(settings: Settings, tmp_path: Path) -> None:
    train(settings(tmp_path / "l2", "lora.weight_penalty=0.1", "selfaug.alpha=0"))
    changes = [
        line["weight_change"] for line in read_lines(tmp_path / "l2" / "metrics.jsonl") if "nll" in line
    ]
    assert len(changes) == 6
    assert changes[0] == 0 < changes[-1]
    with pytest.raises(ConfigError, match="constrains a LoRA adapter"):
        settings(tmp_path / "no", "lora.weight_penalty=0.1", "lora.method=full")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_orthogonal_subspace_is_trained_and_comes_back(settings: Settings, tmp_path: Path) -> None:
    config = settings(
        tmp_path / "osf", "lora.method=osf", "selfaug.alpha=0", "train.steps=2", "train.learning_rate=1e-3"
    )
    record = train(config).record
    assert record["steps"] == 2
    base = AutoModelForCausalLM.from_pretrained(config.model.name)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(config.model.name), tmp_path / "osf" / "adapter"
    )
    ids = torch.arange(12).reshape(1, 12)
    assert not torch.allclose(model(input_ids=ids).logits, base(input_ids=ids).logits, atol=1e-6)


def test_a_model_that_is_too_large_for_one_gpu_stays_in_main_memory_until_it_is_sharded(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only that much: how FSDP takes it from there needs GPUs."""
    config, told, gpu = settings(tmp_path / "run"), [], torch.device("cuda")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 1000))
    model = base_model(config, torch.float32, gpu, False, told.append)
    assert model.device.type == "cpu"
    assert "stays in main memory until it is sharded" in told[0].message
    config = config.model_copy(update={"selfaug": config.selfaug.model_copy(update={"anchors": "self"})})
    with pytest.raises(ConfigError, match=r"the GPU has 0\.0 MB free"):
        base_model(config, torch.float32, gpu, False, told.append)
    # One that fits goes to the GPU.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
    moved: list[torch.device] = []
    monkeypatch.setattr(PreTrainedModel, "to", lambda self, device: moved.append(device) or self)
    base_model(config, torch.float32, gpu, False, told.append)
    assert moved[-1] == gpu
