from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    PreTrainedTokenizerFast,
)

from selfaug.errors import ModelError, PathError, StorageError
from selfaug.phases.export import _ollama_name, export, modelfile
from selfaug.phases.run_models import hashed_weights
from selfaug.phases.vllm_launch import export_vllm
from selfaug.records import read_record


def test_the_merged_model_gives_the_logits_of_base_and_adapter(
    finished_run: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    written = export(finished_run, tmp_path / "model")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = torch.tensor([tokenizer("the revenue of the company")["input_ids"]])
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    tuned = PeftModel.from_pretrained(base, finished_run / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, tuned(ids).logits)
    assert tokenizer.chat_template
    assert written.step is None
    assert written.size == sum(weight.numel() * 4 for weight in merged.parameters())
    assert not list(tmp_path.glob("*.partial"))
    assert not any("cut off" in warning for warning in written.warnings)


def test_card_and_manifest_go_with_what_is_exported(copied_run: Path, tmp_path: Path) -> None:
    """With what users and an evaluation wrote on the run's card."""
    readme = copied_run / "adapter" / "README.md"
    text = readme.read_text(encoding="utf-8").replace("---\n", "---\nlicense: mit\n", 1)
    readme.write_text(text.replace("## Evaluation\n", "## Evaluation\n\nIt is good.\n"), encoding="utf-8")
    export(copied_run, tmp_path / "model", dtype="bfloat16", ollama=True)
    adapter = hashed_weights(copied_run / "adapter")
    trained, merged = (
        read_record(folder / "selfaug_manifest.json", "manifest")
        for folder in (copied_run / "adapter", tmp_path / "model")
    )
    exported = {"dtype": "bfloat16", "of": adapter}
    weights = hashed_weights(tmp_path / "model")
    assert merged == {**trained, "weights": weights, "exported": exported}
    assert weights[0]["sha256"] != adapter[0]["sha256"]
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"]) == ("mit", "transformers")
    assert "## Evaluation\n\nIt is good.\n" in card
    assert "PeftModel" not in card
    assert "with a LoRA adapter merged into its weights, trained with" in card
    told = f"the run's adapter, `adapter_model.safetensors` (SHA-256 `{adapter[0]['sha256']}`), merged into"
    assert told in card
    assert "written in bfloat16" in card
    export_vllm(copied_run, tmp_path / "vllm")
    for name in ("README.md", "selfaug_manifest.json"):
        there = tmp_path / "vllm" / "adapter" / name
        assert there.read_bytes() == (copied_run / "adapter" / name).read_bytes()
    (copied_run / "record.json").unlink()  # its checkpoint has neither
    export(copied_run, tmp_path / "checkpoint")
    assert not {"README.md", "selfaug_manifest.json"} & {
        file.name for file in (tmp_path / "checkpoint").iterdir()
    }


def test_what_a_killed_export_has_left_is_told_and_left(finished_run: Path, tmp_path: Path) -> None:
    left = tmp_path / "model[1].ab12.partial"
    (left / "model").mkdir(parents=True)
    (tmp_path / "model.ab12.partial").mkdir()  # another's
    written = export(finished_run, tmp_path / "model[1]")
    assert [warning for warning in written.warnings if "cut off" in warning] == [
        f"left of an export that was cut off, if none is at work: {left}. Delete it then."
    ]
    assert (left / "model").is_dir()


@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_an_adapter_that_merging_would_put_into_the_head_too_is_refused(
    copied_run: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Training refuses it; another tool may have trained it."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    lora = LoraConfig(target_modules=["embed_tokens"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(copied_run / "adapter")
    with pytest.raises(ModelError, match="another model"):
        export(copied_run, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch about itself
def test_nothing_is_merged_into_weights_that_are_stored_quantised(
    copied_run: Path, tiny_model_dir: Path, quantized_model_dir: Path, tmp_path: Path
) -> None:
    config = copied_run / "config.yaml"
    text = config.read_text(encoding="utf-8").replace(str(tiny_model_dir), str(quantized_model_dir))
    config.write_text(text.replace("dora: false", "dora: true"), encoding="utf-8")
    for launch in (export, export_vllm):  # which merges what vLLM can't load
        with pytest.raises(ModelError, match="stored quantised") as error:
            launch(copied_run, tmp_path / "exported")
        assert "selfaug serve" in error.value.hint
        assert not (tmp_path / "exported").exists()


def test_whoever_can_read_a_record_can_read_the_weights(finished_run: Path, tmp_path: Path) -> None:
    """Where they are served, another user often reads them; safetensors writes them for their owner alone."""
    export(finished_run, tmp_path / "model")
    files = [
        finished_run / "record.json",
        *(finished_run / "adapter").iterdir(),
        *(tmp_path / "model").iterdir(),
    ]
    assert {file.name: oct(file.stat().st_mode) for file in files} == {
        file.name: oct(files[0].stat().st_mode) for file in files
    }


def test_a_folder_that_is_not_empty_is_refused(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(StorageError, match="not empty"):
        export(finished_run, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_the_current_folder_is_refused_though_it_is_empty(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    with pytest.raises(PathError, match="is the current folder") as refused:
        export(finished_run, ".", on_stage=told.append)
    assert refused.value.hint == "give a new folder with --to."
    assert told == []  # nothing was merged for it
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_not_be_written_is_a_storage_error(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can't write"):
        export(finished_run, tmp_path / "file" / "model")


def test_a_disk_that_fills_up_is_a_storage_error_and_leaves_nothing(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", full)
    with pytest.raises(StorageError, match="the disk is full"):
        export(finished_run, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_an_export_does_not_delete_what_another_one_writes_for_the_same_folder(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LlamaForCausalLM.save_pretrained
    begun: list[str] = []

    def with_another_meanwhile(model: LlamaForCausalLM, *given: object, **named: object) -> None:
        begun.append("another" if begun else "first")
        if begun[-1] == "another":
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        write(model, *given, **named)
        with pytest.raises(StorageError, match="the disk is full"):
            export(finished_run, tmp_path / "model")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", with_another_meanwhile)
    export(finished_run, tmp_path / "model")
    assert begun == ["first", "another"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters()
    assert (tmp_path / "model").stat().st_mode == finished_run.stat().st_mode


def test_what_training_gave_the_chat_template_is_given_to_vllm(copied_run: Path, tmp_path: Path) -> None:
    plain = export(copied_run, tmp_path / "plain")
    folder = str(tmp_path / "plain")
    assert shlex.split(plain.commands[0]) == ["vllm", "serve", folder, "--generation-config", "vllm"]
    assert not any("chat_template_kwargs" in told for told in plain.warnings)
    config = copied_run / "config.yaml"
    text = config.read_text(encoding="utf-8")
    changed = text.replace(
        "chat_template_kwargs: {}", "chat_template_kwargs: {enable_thinking: false, day: 2024-07-26}"
    )
    assert changed != text
    config.write_text(changed, encoding="utf-8")
    written = export(copied_run, tmp_path / "model")
    *_, flag, arguments = shlex.split(written.commands[0])
    assert flag == "--default-chat-template-kwargs"
    assert json.loads(arguments) == {"enable_thinking": False, "day": "2024-07-26"}
    assert any(f"chat_template_kwargs {arguments}" in told for told in written.warnings)


def test_ollama_gets_a_modelfile(finished_run: Path, tmp_path: Path) -> None:
    written = export(finished_run, tmp_path / "model", ollama=True)
    text = (tmp_path / "model" / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./model.gguf\n")
    assert "PARAMETER repeat_penalty 1.0\n" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "TEMPLATE" in text
    convert, create = map(shlex.split, written.commands)
    folder = str(tmp_path / "model")
    assert convert == [
        "python",
        "LLAMA_CPP/convert_hf_to_gguf.py",
        folder,
        "--outfile",
        f"{folder}/model.gguf",
    ]
    assert any(told.startswith("LLAMA_CPP in the command is your checkout") for told in written.warnings)
    assert create == ["ollama", "create", "model", "-f", f"{folder}/Modelfile"]


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My Model", "my-model"), ("_v1.2_", "v1.2"), ("\u6a21\u578b", "model"), ("a" * 100, "a" * 80)],
)
def test_ollama_gets_a_name_that_it_takes(folder: str, name: str) -> None:
    assert _ollama_name(Path("models", folder)) == name


def render_go(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama makes of our templates: the constructs that we write, and no others."""
    head, rest = template.removeprefix("{{- if .System }}").split("{{ end }}{{- range .Messages }}")
    turns, answer = rest.split("{{ end }}{{ end }}")
    user, assistant = re.fullmatch(
        r'\{\{ if eq \.Role "user" \}\}(.*)\{\{ else if eq \.Role "assistant" \}\}(.*)', turns, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    system = next((one["content"] for one in messages if one["role"] == "system"), "")
    text = head.replace("{{ .System }}", system) if system else ""
    for message in messages:
        if message["role"] != "system":
            frame = user if message["role"] == "user" else assistant
            text += frame.replace("{{ .Content }}", message["content"])
    return text + answer


CONVERSATION = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]
CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Mistral: the system message goes into the first user turn.
FOLDED = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST] {{ system if loop.index0 < 2 }}{{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)


@pytest.fixture
def model(tiny_model_dir: Path) -> object:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir)


def with_template(tokenizer: PreTrainedTokenizerFast, template: str | None) -> PreTrainedTokenizerFast:
    other = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    other.chat_template = template
    return other


def test_the_template_for_ollama_renders_as_the_chat_template_does(
    tiny_tokenizer: PreTrainedTokenizerFast, model: object
) -> None:
    text, doubts = modelfile(tiny_tokenizer, model, {})
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL).group(1)  # type: ignore[union-attr]
    for messages in (CONVERSATION, CONVERSATION[1:2], CONVERSATION[:2]):
        assert render_go(template, messages) == tiny_tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    assert doubts == []


def test_a_system_message_that_the_template_adds_becomes_the_default(
    tiny_tokenizer: PreTrainedTokenizerFast, model: object
) -> None:
    default = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nI am Tiny<|im_end|>\n{% endif %}"
    text, doubts = modelfile(with_template(tiny_tokenizer, default + CHATML), model, {})
    assert 'SYSTEM """I am Tiny"""' in text
    assert doubts == []


def test_a_date_that_the_template_writes_is_told_of(
    tiny_tokenizer: PreTrainedTokenizerFast, model: object
) -> None:
    """As Llama 3.2: the Modelfile has that of the export for good."""
    dated = CHATML.replace("m['content']", "(day or strftime_now('%d %b %Y')) + m['content']")
    tokenizer = with_template(tiny_tokenizer, dated)
    text, (doubt,) = modelfile(tokenizer, model, {"day": None})
    assert "TEMPLATE" in text
    assert "has today's for good" in doubt
    assert modelfile(tokenizer, model, {"day": "1 May"})[1] == []


def test_the_frame_of_a_system_message_that_is_always_there_stays(
    tiny_tokenizer: PreTrainedTokenizerFast, model: object
) -> None:
    """As Llama 3.1 has it: without a system message its frame is there, with nothing in it."""
    always = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nDate: today\n\n<|im_end|>\n{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'system' %}{{ 'Date: today\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = with_template(tiny_tokenizer, always)
    text, doubts = modelfile(tokenizer, model, {})
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL).group(1)  # type: ignore[union-attr]
    system, turns = template.split("{{ range .Messages }}")
    for messages in (CONVERSATION, CONVERSATION[1:2]):
        said = messages[0]["content"] if messages[0]["role"] == "system" else ""
        assert system.replace("{{ .System }}", said) + render_go(
            "{{- if .System }}{{ end }}{{- range .Messages }}" + turns, messages[-1:]
        ) == tokenizer.apply_chat_template(
            [*messages[:1], *messages[-1:]] if said else messages, tokenize=False, add_generation_prompt=True
        )
    assert "SYSTEM" not in text
    assert doubts == []


def test_a_model_that_was_made_for_plain_text_stops_where_its_chats_end(
    copied_run: Path, tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """And one that reads images too keeps what says how they become tokens."""
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    (base / "processor_config.json").write_text('{"patch_size": 14}', encoding="utf-8")
    ends = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))
    (base / "generation_config.json").write_text(json.dumps({**ends, "eos_token_id": 7}), encoding="utf-8")
    config = copied_run / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace(str(tiny_model_dir), str(base)))
    export(copied_run, tmp_path / "merged", ollama=True)
    written = json.loads((tmp_path / "merged" / "generation_config.json").read_text(encoding="utf-8"))
    assert written["eos_token_id"] == [tiny_tokenizer.eos_token_id, 7]
    assert (tmp_path / "merged" / "processor_config.json").read_text() == '{"patch_size": 14}'
    assert not (tmp_path / "merged" / "preprocessor_config.json").exists()
    assert 'PARAMETER stop "<|im_end|>"' in (tmp_path / "merged" / "Modelfile").read_text(encoding="utf-8")


def test_the_window_for_ollama_has_room_for_the_prompts_of_training(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    text_config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=32_768,
        eos_token_id=tiny_tokenizer.eos_token_id,
    )

    def window(model: object, trained_length: int) -> str:
        text, _ = modelfile(tiny_tokenizer, model, {}, trained_length=trained_length)
        return text.splitlines()[-1].removeprefix("PARAMETER num_ctx ")

    plain = LlamaForCausalLM(text_config)
    assert [window(plain, length) for length in (2048, 16_384, 40_000)] == ["8192", "17408", "32768"]
    # A multimodal configuration, which has the window in that of its text.
    both = LlavaConfig(
        text_config=text_config,
        vision_config=CLIPVisionConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1),
    )
    seeing = SimpleNamespace(config=both, generation_config=plain.generation_config)
    assert window(seeing, 16_384) == "17408"


def test_the_window_for_ollama_is_of_the_run(copied_run: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    described = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**described, "max_position_embeddings": 32_768}))
    config = copied_run / "config.yaml"
    text = config.read_text(encoding="utf-8").replace(str(tiny_model_dir), str(base))
    config.write_text(text.replace("max_length: 2048", "max_length: 12000"))
    export(copied_run, tmp_path / "model", ollama=True)
    text = (tmp_path / "model" / "Modelfile").read_text(encoding="utf-8")
    assert text.endswith("PARAMETER num_ctx 13024\n")


@pytest.mark.parametrize("template", [FOLDED, None, "{{ raise_exception('no system messages') }}"])
def test_a_template_that_can_not_be_taken_apart_is_left_out_and_said(
    tiny_tokenizer: PreTrainedTokenizerFast, model: object, template: str | None
) -> None:
    text, doubts = modelfile(with_template(tiny_tokenizer, template), model, {})
    assert "TEMPLATE" not in text
    assert "no TEMPLATE" in doubts[0]
