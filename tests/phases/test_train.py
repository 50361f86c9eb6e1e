from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerState,
)

from selfaug.config import TrainConfig, dump_config, load_config
from selfaug.errors import (
    CacheError,
    ConfigError,
    DataError,
    DivergedError,
    ModelError,
    SelfAugError,
    StorageError,
)
from selfaug.model.loading import load_model
from selfaug.model.reference import AdapterOff
from selfaug.phases import drift_monitor, inputs
from selfaug.phases.canary import canary_problems
from selfaug.phases.drift_monitor import DriftMonitor, monitored_texts
from selfaug.phases.estimate import estimate
from selfaug.phases.export import export
from selfaug.phases.inputs import load_training_data, require_usable_after_training, training_device
from selfaug.phases.parameter_counts import adapter_parameters
from selfaug.phases.progress import Progress
from selfaug.phases.run_models import load_run_models
from selfaug.phases.train import Interrupted, _base_model, train
from selfaug.phases.training_checks import CheckedInputs, checked_inputs
from selfaug.records import read_lines, read_record, write_record
from selfaug.rundir import RunDir
from selfaug.train import SelfAugTrainer, selfaug_trainer
from tiny_models import build

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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
        [".safetensors", ".json", ".json", ".json", ".jinja", ".md"]
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


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    finished_run: Path, copied_run: Path, cut_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a device for which "auto" is another dtype than where the run began.
    kept = copied_run / "config.yaml"
    kept.write_text(kept.read_text().replace("dtype: float32", "dtype: auto"))
    for module in ("inputs", "train"):
        monkeypatch.setattr(f"selfaug.phases.{module}.best_dtype", lambda _: torch.bfloat16)
    # As if killed: after step 4's checkpoint; or while step 6's was written, which lacks its last file.
    (copied_run / "record.json").unlink()
    shutil.rmtree(copied_run / "adapter")
    if cut_off:
        (copied_run / "checkpoints" / "checkpoint-6" / "selfaug_state.json").unlink()
    else:
        shutil.rmtree(copied_run / "checkpoints" / "checkpoint-6")
    with (copied_run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "nl')
    told: list[Progress] = []
    train(load_config(kept, {"--output": str(copied_run)}), resume=True, on_progress=told.append)
    for said in ("from step 4", "began in float32 and goes on in it"):
        assert any(said in progress.message for progress in told)
    assert same(weights(copied_run), weights(finished_run))
    resumed, whole = (read_lines(run / "metrics.jsonl") for run in (copied_run, finished_run))
    assert [(line["step"], line.get("nll")) for line in resumed] == [
        (line["step"], line.get("nll")) for line in whole
    ]
    assert (copied_run / "record.json").exists()


def test_without_a_complete_checkpoint_a_resumed_run_starts_from_the_beginning(
    finished_run: Path, copied_run: Path
) -> None:
    (copied_run / "record.json").unlink()
    shutil.rmtree(copied_run / "adapter")
    shutil.rmtree(copied_run / "checkpoints")
    # Begun by an earlier version, which did not write these down.
    started = read_record(copied_run / "started.json", "train-started")
    assert (started.pop("dtype"), started.pop("processes")) == ("torch.float32", 1)
    write_record(copied_run / "started.json", "train-started", started)
    train(load_config(finished_run / "config.yaml", {"--output": str(copied_run)}), resume=True)
    assert same(weights(copied_run), weights(finished_run))
    assert len(read_lines(copied_run / "metrics.jsonl")) == len(read_lines(finished_run / "metrics.jsonl"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_resumed_from_its_last_checkpoint_a_run_trains_no_step_more(
    settings: Settings, tmp_path: Path, method: str
) -> None:
    """Killed between that and its record, in the middle of an epoch of six steps."""
    more = (f"lora.method={method}", "train.steps=4", "train.schedule=constant", "train.save_steps=3")
    config = settings(tmp_path / "run", *more, f"data.eval={settings(tmp_path / 'run').data.train[0]}")
    whole = train(config).record
    run = RunDir(tmp_path / "run")
    metrics = read_lines(run.metrics)
    run.record.unlink()
    shutil.rmtree(run.model if method == "full" else run.adapter)
    # The drift at that checkpoint was not measured either.
    kept = [line for line in metrics if line["step"] < 4 or "general_drift" not in line]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    record = train(config, resume=True).record
    assert record["steps"] == 4
    assert record["epochs"] == whole["epochs"]
    assert read_lines(run.metrics) == metrics
    for same_as_before in ("weights", "final", "evaluation", "noise_floor"):
        assert record[same_as_before] == whole[same_as_before]
    assert record["monitor"]["checkpoints"] == whole["monitor"]["checkpoints"]


def test_a_complete_run_has_nothing_to_resume(finished_run: Path, settings: Settings) -> None:
    before = (finished_run / "record.json").read_bytes()
    result = train(load_config(finished_run / "config.yaml"), resume=True)
    assert result.record["steps"] == 6
    assert (finished_run / "record.json").read_bytes() == before


def test_a_run_can_not_be_resumed_with_other_settings_processes_or_data(
    copied_run: Path, tmp_path: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied_run / "record.json").unlink()
    file = copied_run / "config.yaml"
    with pytest.raises(ConfigError, match="can't be resumed with other settings") as error:
        train(load_config(file, {"--output": str(copied_run), "--alpha": 2, "--seed": 1}), resume=True)
    assert [problem.partition(":")[0] for problem in error.value.problems] == ["selfaug.alpha", "train.seed"]
    with monkeypatch.context() as launched:
        launched.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="trained by 1 process, and 2") as error:
            train(load_config(file, {"--output": str(copied_run)}), resume=True)
    assert "start 1 again" in str(error.value.hint)
    changed = tmp_path / "changed.jsonl"
    changed.write_text(
        tiny_rows.read_text(encoding="utf-8").replace("14 million", "15 million"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="can't be resumed") as error:
        train(load_config(file, {"--output": str(copied_run), "--train": str(changed)}), resume=True)
    assert "training rows are not those" in error.value.problems[0]


def test_only_the_first_process_of_a_new_run_looks_for_the_prompts_that_are_learnt(
    copied_run: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads all the text once more."""

    def reached(what: str) -> Callable[..., None]:
        def stop(*_: object, **__: object) -> None:
            raise RuntimeError(what)

        return stop

    monkeypatch.setattr("selfaug.phases.inputs.learnt_prompts", reached("prompts"))
    monkeypatch.setattr("selfaug.phases.train.load_base_model", reached("model"))
    with pytest.raises(RuntimeError, match="prompts"):
        train(settings(tmp_path / "run"))
    (copied_run / "record.json").unlink()
    with pytest.raises(RuntimeError, match="model"):
        train(load_config(copied_run / "config.yaml", {"--output": str(copied_run)}), resume=True)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RuntimeError, match="model"):
        train(settings(tmp_path / "run"))


def test_a_run_is_resumed_with_the_date_that_it_began_on(
    settings: Settings, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some chat templates write today's date into each prompt."""
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    file = model / "chat_template.jinja"
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }} "
    file.write_text(dated + file.read_text(encoding="utf-8"), encoding="utf-8")

    class Then(date):
        @classmethod
        def today(cls) -> date:
            return date(2024, 7, 26)

    config = settings(tmp_path / "run", f"model.name={model}", "train.steps=1", "selfaug.monitor_prompts=0")
    with monkeypatch.context() as then:
        then.setattr("selfaug.phases.train.date", Then)
        whole = train(config).record
    fixed = settings(tmp_path, f"model.name={model}", "data.chat_template_kwargs={date_string: 26 Jul 2024}")
    assert load_training_data(fixed).report["train"]["digest"] == whole["data"]["train"]["digest"]
    run = RunDir(tmp_path / "run")
    run.record.unlink()
    assert train(config, resume=True).record["weights"] == whole["weights"]
    # What tells when it began is not there in runs of earlier versions.
    run.record.unlink()
    started = read_record(run.started, "train-started")
    assert started.pop("day") == "2024-07-26"
    write_record(run.started, "train-started", started)
    with pytest.raises(ConfigError, match="can't be resumed") as error:
        train(config, resume=True)
    assert "writes today's date" in error.value.problems[0]
    # The adapter's tokeniser is the model's: served tomorrow, it writes that day's date.
    assert "strftime_now" in (run.adapter / "chat_template.jinja").read_text(encoding="utf-8")


def test_checkpoints_that_may_end_a_run_stay_where_they_are(copied_run: Path) -> None:
    run = RunDir(copied_run)
    run.record.unlink()
    stops = load_config(run.config, sets=["selfaug.stop_at_drift=1", f"run.output={copied_run}"])
    run.config.write_text(run.config_text(dump_config(stops)), encoding="utf-8")
    told: list[str] = []
    others = load_config(run.config, sets=["train.save_steps=5"])
    with pytest.raises(ConfigError, match="other settings") as refused:
        train(others, resume=True, on_progress=lambda progress: told.append(progress.stage))
    assert refused.value.problems == ["train.save_steps: the run has 2, now it is 5"]
    assert told == []
    # Where they end nothing, they may be others.
    free = load_config(run.config, sets=["selfaug.stop_at_drift=null"])
    run.config.write_text(run.config_text(dump_config(free)), encoding="utf-8")
    assert train(load_config(run.config, sets=["train.save_steps=5"]), resume=True).record["steps"] == 6


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


@pytest.mark.parametrize(
    ("added", "named"),
    [
        (
            {"additional_special_tokens": ["<new>"]},
            r"the token '<new>' of the rows has the id (\d+), .* of \1 tokens",
        ),
        ({"pad_token": "<padding>"}, r"the token '<padding>' of padding has the id (\d+), .* of \1 tokens"),
    ],
)
def test_tokens_that_the_model_has_no_embedding_of_are_refused(
    tmp_path: Path, settings: Settings, tiny_model_dir: Path, added: dict[str, Any], named: str
) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(added)
    tokenizer.save_pretrained(folder)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "the year <new>", "completion": "was"}\n' * 4, encoding="utf-8")
    config = settings(tmp_path / "run", f"model.name={folder}", f'data.train=["{rows}"]', f"data.eval={rows}")
    for work in (estimate, train):
        with pytest.raises(ConfigError, match=named) as refused:
            work(config)
        assert "resize_token_embeddings" in str(refused.value.hint)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("reference", ["adapter_off", "cache"])
@pytest.mark.parametrize("layout", ["packing", "padding_free"])
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


def bad(tmp_path: Path, content: str) -> str:
    file = tmp_path / "bad.jsonl"
    file.write_text(content, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("sets", "kind"),
    [
        (["data.train=missing.jsonl"], DataError),
        (["model.name=./missing"], ModelError),
        (["model.device=cuda:7"], ConfigError),
        (["model.device=quantum"], ConfigError),
        (["model.dtype=float16"], ConfigError),
        (["data.max_length=20"], DataError),
        (["train.report_to=nonsense"], ConfigError),
        (["selfaug.reference=adapter_off", "lora.target_modules=[nowhere]"], SelfAugError),
    ],
)
def test_bad_input_is_one_error_and_nothing_is_written(
    tmp_path: Path, settings: Settings, sets: list[str], kind: type[SelfAugError]
) -> None:
    with pytest.raises(kind):
        train(settings(tmp_path / "run", *sets))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("wanb", r"no tracker 'wanb' \(did you mean wandb\?\)"),
        ("all", "no tracker 'all'"),
        ("[none, wandb]", "no tracker 'none'"),
        ("flyte", "`pip install flytekit`"),
    ],
)
def test_a_tracker_that_can_not_be_used_says_which_can(
    given: str, told: str, tmp_path: Path, settings: Settings
) -> None:
    with pytest.raises(ConfigError) as error:
        train(settings(tmp_path / "run", f"train.report_to={given}"))
    assert re.search(told, str(error.value))
    assert f"pip install {given}`" not in str(error.value)


def test_rows_without_an_answer_are_refused_before_anything_is_written(
    tmp_path: Path, settings: Settings
) -> None:
    with pytest.raises(DataError):
        train(settings(tmp_path / "run", f"data.train={bad(tmp_path, '')}"))
    with pytest.raises(DataError, match="1 of 1 rows"):
        train(
            settings(tmp_path / "run", "data.train=" + bad(tmp_path, '{"prompt": "a", "completion": ""}\n'))
        )
    assert not (tmp_path / "run").exists()


def test_a_cache_of_another_model_leaves_no_run_behind(tmp_path: Path, settings: Settings) -> None:
    cached = ("selfaug.reference=cache", f"selfaug.reference_cache_dir={tmp_path / 'cache'}", "train.steps=1")
    train(settings(tmp_path / "first", *cached))
    other = tmp_path / "other"
    shutil.copytree(settings(tmp_path).model.name, other)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    model.save_pretrained(other)
    with pytest.raises(CacheError, match="belongs to another reference model"):
        train(settings(tmp_path / "second", *cached, f"model.name={other}"))
    assert not (tmp_path / "second").exists()


@pytest.fixture
def states_dir(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """Folder with a tiny Mamba."""
    folder = tmp_path / "mamba"
    build("mamba", vocab_size=len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


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
    _, tuned = load_run_models(run, config, run.adapter, device=torch.device("cpu"), offline=True)
    assert canary_problems(run, tuned, AdapterOff(tuned)) == []


def test_a_run_goes_on_with_an_adapter_on_the_layers_that_it_began_on(
    settings: Settings, states_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version left out the last layer alone."""
    few = ("train.steps=1", "lora.target_modules=[all-linear]", "selfaug.monitor_prompts=0")
    config = settings(tmp_path / "run", f"model.name={states_dir}", *few)
    with monkeypatch.context() as earlier:
        earlier.setattr(inputs, "fused_layers", lambda model: ["mixer.out_proj"])
        train(config)
    before = weights(tmp_path / "run")
    assert any("x_proj" in name for name in before)
    RunDir(tmp_path / "run").record.unlink()
    assert train(config, resume=True).record["steps"] == 1
    assert same(weights(tmp_path / "run"), before)


@pytest.mark.parametrize(
    ("described", "sets", "kind", "words"),
    [
        (None, ["lora.target_modules=[q_proj, embed_tokens]"], ConfigError, "names embed_tokens"),
        (None, ["lora.target_modules=[model.embed_tokens, lm_head]"], ConfigError, "embed_tokens, lm_head"),
        ({"use_bias": True}, ["lora.target_modules=[in_proj]"], ModelError, "can't write answers"),
    ],
)
def test_what_would_be_of_no_use_after_training_is_refused_before(
    described: dict[str, bool] | None,
    sets: list[str],
    kind: type[SelfAugError],
    words: str,
    settings: Settings,
    states_dir: Path,
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    if described is not None:
        build("mamba", vocab_size=len(tiny_tokenizer), **described).save_pretrained(states_dir)
        sets = [*sets, f"model.name={states_dir}"]
    config = settings(tmp_path / "run", *sets)
    for phase in (train, estimate):
        with pytest.raises(kind, match=words):
            phase(config)
    assert not (tmp_path / "run").exists()


def test_an_embedding_with_a_weight_of_its_own_may_have_an_adapter() -> None:
    target = load_config(
        None, {"--model": "m", "--train": "t", "--output": "o"}, ["lora.target_modules=[embed_tokens]"]
    )
    require_usable_after_training(build("llama-untied"), target.lora)
    whole = load_config(None, {"--model": "m", "--train": "t", "--output": "o"}, ["lora.method=full"])
    require_usable_after_training(build("llama-tied"), whole.lora)


LONG_STAGES = {"anchors written by the base model", "general prompts for drift", "training"}


@pytest.mark.parametrize("what", ["cache", "checkpoints", "head"])
def test_what_can_not_be_is_refused_before_anything_long(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    kind: type[SelfAugError] = StorageError
    if what == "head":
        kind, words = ModelError, "in a way that selfaug does not reproduce"
        monkeypatch.setattr("selfaug.model.head._logit_scale", lambda _: 2.0)
    else:
        words = "the reference cache needs 0.4 MB" if what == "cache" else "the checkpoints need"
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    told: list[str] = []
    reference = "cache" if what == "cache" else "adapter_off"
    anchors = ("selfaug.anchors=self", "selfaug.anchor_count=2")
    cached = (f"selfaug.reference={reference}", f"selfaug.reference_cache_dir={tmp_path / 'cache'}")
    config = settings(tmp_path / "run", *anchors, *cached)
    with pytest.raises(kind, match=words):
        train(config, on_progress=lambda progress: told.append(progress.stage))
    assert told[-1] == "model"
    assert not LONG_STAGES & set(told)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_does_not_have_its_anchors_written_again(copied_run: Path, settings: Settings) -> None:
    config = settings(copied_run, "selfaug.anchors=self", "selfaug.anchor_count=2", "run.overwrite=true")
    train(config)
    (copied_run / "record.json").unlink()
    told: list[str] = []
    train(config, resume=True, on_progress=lambda progress: told.append(progress.stage))
    assert "anchors written by the base model" not in told
    assert read_record(copied_run / "record.json", "train")["anchors"] == 2


@pytest.mark.parametrize("since", ["nothing", "damaged", "another count"])
def test_a_run_cut_off_before_its_first_checkpoint_keeps_its_anchors(
    settings: Settings, tmp_path: Path, since: str
) -> None:
    def cut(progress: Progress) -> None:
        if progress.stage == "training":
            raise KeyboardInterrupt

    run = RunDir(tmp_path / "run")
    few = ("selfaug.anchors=self", "selfaug.anchor_count=2")
    config = settings(run.path, *few)
    with pytest.raises(Interrupted, match="from the start"):
        train(config, on_progress=cut)
    written = run.anchors.read_bytes()
    seconds = read_record(run.started, "train-started").get("anchors", {}).get("seconds")
    if since == "damaged":
        run.anchors.write_bytes(written[: len(written) // 2])
    elif since == "another count":
        text = run.config.read_text(encoding="utf-8")
        run.config.write_text(text.replace("anchor_count: 2", "anchor_count: 3"), encoding="utf-8")
        config = load_config(run.config)
    told: list[str] = []
    record = train(config, resume=True, on_progress=lambda progress: told.append(progress.stage)).record
    assert ("anchors written by the base model" in told) == (since != "nothing")
    assert (record["anchor_seconds"] == seconds) == (since == "nothing")
    assert record["anchors"] == config.selfaug.anchor_count
    assert (run.anchors.read_bytes() == written) == (since != "another count")


def test_the_size_of_the_cache_is_said(tmp_path: Path, settings: Settings) -> None:
    told: list[Progress] = []
    cached = ("selfaug.reference=cache", f"selfaug.reference_cache_dir={tmp_path / 'cache'}", "train.steps=1")
    train(settings(tmp_path / "run", *cached), on_progress=told.append)
    said = [progress for progress in told if progress.stage == "reference cache"]
    assert said[0].message == f"the reference cache takes 0.4 MB in {tmp_path / 'cache'}."
    assert said[1].total == 24


def test_a_disk_that_is_full_at_once_leaves_no_run_behind(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("No space left on device")

    (tmp_path / "empty").mkdir()
    for broken in ("write_text", "write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(f"selfaug.phases.train.{broken}", full)
            for folder in ("run", "empty"):
                with pytest.raises(StorageError):
                    train(settings(tmp_path / folder))
                assert not (tmp_path / folder).exists()


def test_an_interrupted_run_says_from_where_it_goes_on(tmp_path: Path, settings: Settings) -> None:
    def stop_at(step: int) -> Callable[[Progress], None]:
        def stop(progress: Progress) -> None:
            if progress.stage == "training" and progress.done == step:
                raise KeyboardInterrupt

        return stop

    run = tmp_path / "a run"
    with pytest.raises(Interrupted, match=r"from the start: selfaug train --resume --output '.*a run'$"):
        train(settings(run), on_progress=stop_at(1))
    with pytest.raises(Interrupted, match="from the last checkpoint"):
        train(settings(run), resume=True, on_progress=stop_at(3))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_overwritten_run_is_there_until_the_new_one_has_a_checkpoint(
    copied_run: Path, settings: Settings, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    before = {file: file.read_bytes() for file in copied_run.rglob("*") if file.is_file()}
    config = settings(copied_run, "run.overwrite=true", "train.seed=1")

    def end_at(step: int) -> Callable[[Progress], None]:
        def end(progress: Progress) -> None:
            if progress.stage == "training" and progress.done == step:
                raise kind

        return end

    for step in (0, 1):
        with pytest.raises(kind) as ended:
            train(config, on_progress=end_at(step))
        assert {file: file.read_bytes() for file in copied_run.rglob("*") if file.is_file()} == before
        assert f"the earlier run is back in {copied_run}" in caplog.text
        caplog.clear()
        if kind is KeyboardInterrupt:
            assert str(ended.value) == "stopped before the first checkpoint."
    with pytest.raises(kind):
        train(config, on_progress=end_at(3))
    run = RunDir.open(copied_run)
    assert not run.is_complete()
    assert run.latest_complete_checkpoint() == run.checkpoints / "checkpoint-2"
    assert not [entry for entry in copied_run.iterdir() if entry.name.startswith(".")]


def test_a_disk_without_room_beside_the_overwritten_run_is_refused(
    copied_run: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(copied_run)
    checkpoint = 16_384 * 4 * 3
    monkeypatch.setattr(
        "selfaug.phases.train.shutil.disk_usage", lambda _: usage._replace(free=checkpoint - 1)
    )
    config = settings(copied_run, "run.overwrite=true", "train.keep_checkpoints=1")
    with pytest.raises(StorageError, match=r"first checkpoint needs 0\.2 MB beside the run that it replaces"):
        train(config)
    assert RunDir.open(copied_run).is_complete()


def test_a_taken_folder_is_refused_before_the_model_is_loaded(finished_run: Path, settings: Settings) -> None:
    told: list[Progress] = []
    with pytest.raises(StorageError, match="already holds a run"):
        train(settings(finished_run), on_progress=told.append)
    assert told == []


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


@pytest.mark.parametrize(
    ("stage", "number"), [("drift", signal.SIGTERM), ("saving", signal.SIGINT)], ids=["drift", "saving"]
)
def test_a_signal_after_the_last_step_is_heeded(
    tmp_path: Path, settings: Settings, stage: str, number: signal.Signals
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(progress: Progress) -> None:
        if progress.stage == stage and (stage == "saving" or "at step 6:" in progress.message):
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"stopped at once\. To go on from the last checkpoint: "):
        train(settings(tmp_path / "run"), on_progress=interrupt)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert not RunDir(tmp_path / "run").is_complete()
    assert train(settings(tmp_path / "run"), resume=True).record["steps"] == 6


def test_rows_in_both_sets_are_pointed_out(finished_run: Path, tmp_path: Path, settings: Settings) -> None:
    told: list[Progress] = []
    config = settings(tmp_path / "run", "train.steps=1", f"data.eval={settings(tmp_path).data.train[0]}")
    train(config, on_progress=told.append)
    assert any("24 of 24 evaluation rows are training rows" in progress.message for progress in told)
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == [
        "data", "warning", "model", "general prompts for drift", "training", "drift", "saving",
    ]  # fmt: skip


def test_anchors_are_written_once_and_shown(settings: Settings, tmp_path: Path) -> None:
    few = ("selfaug.anchor_count=3", "selfaug.anchor_share=1")
    stages: list[tuple[str, int]] = []
    result = train(
        settings(tmp_path / "run", "selfaug.anchors=self", *few),
        on_progress=lambda progress: stages.append((progress.stage, progress.done)),
    )
    assert ("anchors written by the base model", 6) in stages
    written = read_lines(tmp_path / "run" / "anchors.jsonl")
    assert len(written) == result.record["anchors"] == 3
    assert all(set(line) == {"text", "input_ids"} for line in written)
    # The same from the file, and nothing is written then but the run itself.
    again = train(settings(tmp_path / "again", f"selfaug.anchors={tmp_path / 'run' / 'anchors.jsonl'}", *few))
    assert again.record["anchors"] == 3
    assert same(weights(tmp_path / "run"), weights(tmp_path / "again"))


def test_writing_anchors_is_part_of_the_time_and_a_resumed_run_has_all_of_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def takes(seconds: float, done: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*given: Any, **named: Any) -> Any:
            now[0] += seconds
            return done(*given, **named)

        return slow

    monkeypatch.setattr(selfaug_trainer.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(selfaug_trainer, "self_anchors", takes(1000, lambda *_, **__: [[3, 4], [5, 6]]))
    monkeypatch.setattr(SelfAugTrainer, "training_step", takes(10, SelfAugTrainer.training_step))
    config = settings(
        tmp_path / "run", "selfaug.anchors=self", "train.gradient_accumulation=1", "selfaug.monitor_prompts=0"
    )

    def cut(progress: Progress) -> None:
        if progress.stage == "training" and progress.done == 3:
            raise CutError

    class CutError(Exception):
        pass

    with pytest.raises(CutError):
        train(config, on_progress=cut)
    now[0] += 1e6  # until somebody goes on with it
    record = train(config, resume=True).record
    assert (record["seconds"], record["anchor_seconds"]) == (1000 + 6 * 10, 1000)
    whole = train(settings(tmp_path / "whole", "selfaug.anchors=self", "train.steps=1")).record
    assert (whole["seconds"], whole["anchor_seconds"]) == (1000 + 2 * 10, 1000)


def test_anchors_without_alignment_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"selfaug\.anchors: are aligned and nothing else"):
        settings(tmp_path, "selfaug.anchors=self", "selfaug.alpha=0")


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
    few.write_text(
        "".join(
            json.dumps({"prompt": f"Say {word}.", "completion": word}) + "\n" for word in ("yes", "no", "why")
        ),
        encoding="utf-8",
    )
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


def test_an_adapter_that_training_goes_on_from_keeps_its_form(
    settings: Settings, finished_run: Path, tmp_path: Path
) -> None:
    going_on = (f"lora.start_from={finished_run}", "lora.dropout=0.1")
    with pytest.raises(ConfigError, match="training can't go on from") as refused:
        train(settings(tmp_path / "run", *going_on, "model.dtype=bfloat16"))  # the same weights all the same
    assert refused.value.problems == ["lora.dropout is 0.1 here and 0.0 there"]
    assert not (tmp_path / "run").exists()
    # Earlier versions began such runs: these go on.
    run = RunDir(train(settings(tmp_path / "run", *going_on[:1])).run)
    run.record.unlink()
    run.config.write_text(run.config.read_text().replace("dropout: 0.0", "dropout: 0.1"))
    assert train(load_config(run.config), resume=True).record["steps"] == 6


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
@pytest.mark.parametrize("logged", [True, False], ids=["drift logged", "drift not logged"])
def test_a_run_that_drift_had_ended_does_not_train_on_when_resumed(
    settings: Settings, tmp_path: Path, method: str, logged: bool
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


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "of an earlier version"])
def test_a_resumed_run_keeps_its_base_answers(
    settings: Settings, tmp_path: Path, writing_model: Path, kept: bool
) -> None:
    """They end where the tokeniser ends a text; in earlier versions, where the generation config did, and unkept."""
    model = Path(shutil.copytree(writing_model, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    written = monitored_texts(AutoModelForCausalLM.from_pretrained(model), tokenizer, 2, {})
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(written[0][0][-1])
    end = tokenizer.eos_token_id
    tokenizer.save_pretrained(model)
    config = settings(tmp_path / "run", f"model.name={model}")
    answers = RunDir(tmp_path / "run").general_answers

    def answered() -> list[list[int]]:
        return [line["input_ids"][line["answer_from"] :] for line in read_lines(answers)]

    def cut(progress: Progress) -> None:
        if progress.stage == "drift":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(config, on_progress=cut)
    assert not any(end in ids for ids in answered())
    before = answers.read_bytes()
    if not kept:
        answers.unlink()
    told: list[Progress] = []
    record = train(config, resume=True, on_progress=told.append).record
    assert [one["step"] for one in record["monitor"]["checkpoints"]] == [2, 4, 6]
    assert any(progress.stage == "general prompts for drift" for progress in told) == (not kept)
    assert (answers.read_bytes() == before) == kept
    assert any(end in ids for ids in answered()) == (not kept)


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
    _, tuned = load_run_models(run, config, run.model, device=torch.device("cpu"), offline=True)
    assert tuned.dtype is torch.bfloat16
    assert canary_problems(run, tuned, None) == []


def test_a_model_that_is_too_large_for_one_gpu_stays_in_main_memory_until_it_is_sharded(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only that much: how FSDP takes it from there needs GPUs."""
    config, told, gpu = settings(tmp_path / "run"), [], torch.device("cuda")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 1000))
    model = _base_model(config, torch.float32, gpu, False, told.append)
    assert model.device.type == "cpu"
    assert "stays in main memory until it is sharded" in told[0].message
    config = config.model_copy(update={"selfaug": config.selfaug.model_copy(update={"anchors": "self"})})
    with pytest.raises(ConfigError, match=r"the GPU has 0\.0 MB free"):
        _base_model(config, torch.float32, gpu, False, told.append)
    # One that fits goes to the GPU.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
    moved: list[torch.device] = []
    monkeypatch.setattr(PreTrainedModel, "to", lambda self, device: moved.append(device) or self)
    _base_model(config, torch.float32, gpu, False, told.append)
    assert moved[-1] == gpu


def test_another_gpu_than_the_trainers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # nothing of it is used
    assert training_device("cuda") == training_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="training takes cuda:0 here") as caught:
        training_device("cuda:1")
    assert "CUDA_VISIBLE_DEVICES" in str(caught.value.hint)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert training_device("cuda") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="training takes cuda:1 here") as caught:
        training_device("cuda:0")
    assert "launcher" in str(caught.value.hint)
    assert training_device("cpu") == torch.device("cpu")
