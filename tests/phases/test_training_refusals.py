"""What is refused before a training begins, and that nothing is left behind then."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from selfaug.config import TrainConfig, load_config
from selfaug.errors import CacheError, ConfigError, DataError, ModelError, SelfAugError, StorageError
from selfaug.phases.estimate import estimate
from selfaug.phases.inputs import require_usable_after_training, training_device
from selfaug.phases.progress import Progress
from selfaug.phases.train import train
from selfaug.phases.training_checks import checked_inputs
from selfaug.rundir import RunDir
from tiny_models import build

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]


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


@pytest.mark.parametrize(
    ("described", "sets", "kind", "words"),
    [
        (None, ["lora.target_modules=[q_proj, embed_tokens]"], ConfigError, "names embed_tokens"),
        (None, ["lora.target_modules=[model.embed_tokens, lm_head]"], ConfigError, "embed_tokens, lm_head"),
        (
            None,
            ["lora.target_modules=[all-linear, embed_tokens]"],
            ConfigError,
            "embed_tokens beside all-linear",
        ),
        (
            None,
            ["lora.target_modules=[q_proj, v_porj, proj]"],
            ConfigError,
            r"v_porj \(did you mean v_proj\?\), proj",
        ),
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


def test_layers_of_experts_are_known_by_their_names() -> None:
    """They are one tensor of a module, and PEFT takes these names for it, with LoRA alone."""
    model = build("qwen3-moe")

    def require(names: str, method: str = "lora") -> None:
        sets = [f"lora.target_modules=[{names}]", f"lora.method={method}"]
        flags = {"--model": "m", "--train": "t", "--output": "o"}
        require_usable_after_training(model, load_config(None, flags, sets).lora)

    require("q_proj, gate_proj, up_proj, down_proj")
    with pytest.raises(ConfigError, match="gate_proj without also targeting up_proj"):
        require("q_proj, gate_proj")
    for names, method in (("q_proj, w1", "lora"), ("q_proj, down_proj", "osf")):
        with pytest.raises(ConfigError, match=f"does not have: {names[8:]}"):
            require(names, method)


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        (["lora.method=full", "lora.rank=8", "lora.dora=true"], "lora.rank, lora.dora count for nothing"),
        (["lora.method=osf", "lora.rank=64", "lora.preserved=0.4"], "lora.rank counts for nothing"),
        (["lora.rank=8", "lora.dora=true"], None),
        (["lora.method=full"], None),
    ],
)
def test_settings_of_an_adapter_that_there_is_not_are_told_of(
    sets: list[str], named: str | None, tmp_path: Path, settings: Settings
) -> None:
    warnings = checked_inputs(settings(tmp_path / "run", *sets)).data.warnings
    assert [one.partition(":")[0] for one in warnings] == ([] if named is None else [named])


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        ([], None),
        (["selfaug.stop_at_drift=1", "train.save_steps=1"], None),
        (["selfaug.stop_at_drift=1", "train.save_steps=2"], "selfaug.stop_at_drift will see one checkpoint"),
        (
            ["selfaug.stop_at_drift=1", "train.best_of_rows=1"],
            "selfaug.stop_at_drift and train.best_of_rows will",
        ),
    ],
)
def test_a_training_with_one_checkpoint_says_what_goes_by_checkpoints(
    sets: list[str], named: str | None, tmp_path: Path, settings: Settings, tiny_rows: Path
) -> None:
    config = settings(tmp_path / "run", f"data.eval=[{tiny_rows}]", "train.steps=2", *sets)
    warnings = [one for one in checked_inputs(config).data.warnings if "--save-steps" in one]
    assert len(warnings) == (named is not None)
    if named is not None:
        assert warnings[0].startswith(named)
        assert "the training has 2 steps" in warnings[0]


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


def test_a_disk_that_is_full_at_once_leaves_no_run_behind(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("No space left on device")

    (tmp_path / "empty").mkdir()
    for broken in ("train.write_text", "resuming.write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(f"selfaug.phases.{broken}", full)
            for folder in ("run", "empty"):
                with pytest.raises(StorageError):
                    train(settings(tmp_path / folder))
                assert not (tmp_path / folder).exists()


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


def test_an_adapter_that_training_goes_on_from_keeps_its_form(
    settings: Settings, finished_run: Path, tmp_path: Path
) -> None:
    going_on = (f"lora.start_from={finished_run}", "lora.dropout=0.1")
    with pytest.raises(ConfigError, match="training can't go on from") as refused:
        train(settings(tmp_path / "run", *going_on, "model.dtype=bfloat16"))  # the same weights all the same
    assert refused.value.problems == ["lora.dropout is 0.1 here and 0.0 there"]
    assert not (tmp_path / "run").exists()


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
