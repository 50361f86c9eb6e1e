"""A run's base model is the one that it was trained on, in every command that loads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from asking import evaluate
from selfaug.errors import ModelError
from selfaug.phases import run_models
from selfaug.phases.chat import open_chat
from selfaug.phases.export import export
from selfaug.phases.run_models import hash_of_weights, hashes_of_weights
from selfaug.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself


@pytest.fixture
def base(copied_run: Path, tmp_path: Path) -> Path:
    """The run's base model in a folder of its own, which the run's settings name."""
    settings = yaml.safe_load((copied_run / "config.yaml").read_text())
    folder = shutil.copytree(settings["model"]["name"], tmp_path / "base")
    marker, _, rest = (copied_run / "config.yaml").read_text().partition("\n")
    (copied_run / "config.yaml").write_text(
        f"{marker}\n" + rest.replace(settings["model"]["name"], str(folder))
    )
    return Path(folder)


def change(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] *= 1.01
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def forget_stored_hash(run: Path) -> None:
    """As runs were recorded before it was."""
    for name in ("record.json", "started.json"):
        record = json.loads((run / name).read_text())
        del record["data"]["model"]["stored_weights_hash"]
        (run / name).write_text(json.dumps(record))


COMMANDS: dict[str, Callable[[Path, Path], object]] = {
    "chat": lambda run, folder: open_chat(run, device="cpu"),
    "evaluate": lambda run, folder: evaluate(run, device="cpu"),
    "export": lambda run, folder: export(run, folder / "exported"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_other_weights_under_the_same_name_are_refused(
    copied_run: Path, base: Path, tmp_path: Path, command: str
) -> None:
    change(base)
    with pytest.raises(
        ModelError, match=r"has other weights than the base model that .*copied was trained on"
    ) as e:
        COMMANDS[command](copied_run, tmp_path)
    assert "config.yaml, at model.name" in str(e.value.hint)
    assert not (tmp_path / "exported").exists()


def test_the_same_weights_elsewhere_are_taken_without_reading_them_all(
    copied_run: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_models, "fingerprint", None)
    open_chat(copied_run, device="cpu")
    (copied_run / "record.json").unlink()  # an unfinished run's are in started.json
    open_chat(copied_run, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_no_stored_hash_tells_all_weights_are_compared(
    copied_run: Path, base: Path, dtype: str
) -> None:
    forget_stored_hash(copied_run)
    text = (copied_run / "config.yaml").read_text()
    # Loaded as something else than in training: then they are loaded once more.
    (copied_run / "config.yaml").write_text(text.replace("dtype: float32", f"dtype: {dtype}"))
    assert open_chat(copied_run, device="cpu").tuned.dtype is getattr(torch, dtype)
    change(base)
    with pytest.raises(ModelError, match="has other weights"):
        open_chat(copied_run, device="cpu")


def test_what_was_trained_in_float16_answers_on_a_cpu_in_float32(
    copied_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = copied_run / "config.yaml"
    config.write_text(config.read_text().replace("dtype: float32", "dtype: float16"))
    assert open_chat(copied_run, device="cpu").tuned.dtype is torch.float32
    assert "trained in float16, which is for GPUs" in caplog.text


def test_what_a_mac_puts_beside_weights_is_none(copied_run: Path) -> None:
    run = RunDir(copied_run)
    before = hash_of_weights(run.adapter), hashes_of_weights(run)
    (run.adapter / "._adapter_model.safetensors").write_bytes(b"Mac OS X")
    assert (hash_of_weights(run.adapter), hashes_of_weights(run)) == before
