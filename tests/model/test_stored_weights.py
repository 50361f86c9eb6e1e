from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from selfaug.errors import ModelError
from selfaug.model import stored_weights
from selfaug.model.stored_weights import stored_tokenizer_hash, stored_weights_hash


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def test_the_hash_is_of_the_weights_and_not_of_files(folder: Path, tmp_path: Path) -> None:
    expected = stored_weights_hash(folder)
    assert expected is not None
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    assert stored_weights_hash(tmp_path / "parts") == expected
    (folder / "README.md").write_text("changed")
    os.utime(folder / "model.safetensors", (0, 0))
    assert stored_weights_hash(folder) == expected


@pytest.mark.parametrize("change", ["value", "dtype", "shape", "name"])
def test_other_weights_have_another_hash(folder: Path, change: str) -> None:
    expected = stored_weights_hash(folder)
    tensors = load_file(folder / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    if change == "value":
        norm[0] += 1e-6
    elif change == "dtype":
        norm = norm.to(torch.int32)  # ones: the bytes would be others anyway
    elif change == "shape":
        norm = norm.reshape(1, -1)
    tensors["model.norm.weight" if change != "name" else "model.norm.scale"] = norm
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert stored_weights_hash(folder) != expected


def test_a_large_tensor_is_sampled_from_end_to_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = folder / "model.safetensors"
    read: list[int] = []
    sample = stored_weights._sample

    def counted(*arguments: object) -> object:
        for chunk in sample(*arguments):
            read.append(len(chunk))
            yield chunk

    monkeypatch.setattr(stored_weights, "_sample", counted)
    big = torch.zeros(1_000_000)
    hashes = set()
    for place in (None, 0, 3, -1):  # the first chunk, and the last
        changed = big.clone()
        if place is not None:
            changed[place] = 1.0
        save_file({"big": changed}, file)
        hashes.add(stored_weights_hash(folder))
    assert len(hashes) == 4
    assert sum(read) == 4 * 8 * 4096


def test_models_of_the_hub_are_found_in_its_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def cached(name: str, file: str) -> str | None:
        asked.append((name, file))
        return str(folder / file) if file == "model.safetensors" else None

    monkeypatch.setattr(stored_weights, "try_to_load_from_cache", cached)
    assert stored_weights_hash("owner/name") == stored_weights_hash(folder)
    assert asked == [("owner/name", "model.safetensors")]


def test_without_safetensors_there_is_none_and_damage_is_an_error(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ModelError, match="can't be read"):
        stored_weights_hash(folder)
    (folder / "model.safetensors").unlink()
    assert stored_weights_hash(folder) is None
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "gone.safetensors"}})
    )
    with pytest.raises(ModelError, match=r"gone\.safetensors can't be read"):
        stored_weights_hash(folder)


def test_another_tokeniser_or_chat_template_has_another_hash(folder: Path) -> None:
    def rewrite(name: str, **changed: object) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**content, **changed}, indent=1), encoding="utf-8")

    template = folder / "chat_template.jinja"
    expected = stored_tokenizer_hash(folder)
    # Written otherwise, and with what was set for the last text.
    rewrite("tokenizer.json", truncation={"max_length": 7})
    rewrite("tokenizer_config.json", model_max_length=77)
    assert stored_tokenizer_hash(folder) == expected
    before = template.read_text(encoding="utf-8")
    template.write_text(before.replace("assistant", "model"), encoding="utf-8")
    found = {expected, stored_tokenizer_hash(folder)}
    template.unlink()
    rewrite("tokenizer_config.json", chat_template=before)
    found.add(stored_tokenizer_hash(folder))
    rewrite("tokenizer.json", normalizer={"type": "Lowercase"})
    found.add(stored_tokenizer_hash(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}", encoding="utf-8")
    found.add(stored_tokenizer_hash(folder))
    assert len(found) == 5
    (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="can't be read"):
        stored_tokenizer_hash(folder)
    for name in ("vocab.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert stored_tokenizer_hash(folder) is None
