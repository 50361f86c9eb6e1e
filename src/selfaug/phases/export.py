"""A run as a model that stands alone: merged safetensors, and what makes an Ollama model of them."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from selfaug.config import TrainConfig
from selfaug.core.printable import printable_size
from selfaug.errors import ModelError, PathError, StorageError
from selfaug.model.generate import end_tokens
from selfaug.model.loading import load_adapter, load_model, load_model_config, window_of
from selfaug.model.merging import merge
from selfaug.phases.inputs import on_day, tokenizer_of
from selfaug.phases.manifest import write_manifest
from selfaug.phases.model_card import exported_card
from selfaug.phases.run_files import load_run_config, require_named_base
from selfaug.phases.run_models import hashed_weights, require_same_base, trained_weights
from selfaug.records import is_failed_write, make_readable, read_record, write_text
from selfaug.rundir import RunDir

__all__ = ["Exported", "export", "modelfile", "require_new_folder"]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: the model.
        size: in bytes.
        step: the checkpoint's step, if the run is not complete; else None.
        commands: what to run with it.
        warnings: what the user should know.
    """

    folder: Path
    size: int
    step: int | None
    commands: list[str]
    warnings: list[str] = field(default_factory=list)


def require_new_folder(target: Path) -> None:
    """Refuse a place for a model where something is already.

    Raises:
        PathError: if it is a file, or the current folder.
        StorageError: if it is a folder that is not empty.
    """
    if target.exists() and not target.is_dir():
        raise PathError(f"{target} is a file, not a folder.", hint="give a new folder with --to.")
    if target.exists() and any(target.iterdir()):
        raise StorageError(f"{target} exists and is not empty.", hint="give a new folder with --to.")
    if not target.name:  # an empty one would be replaced by the model, and can't be while somebody is in it
        raise PathError(f"{target} is the current folder.", hint="give a new folder with --to.")


def export(
    run: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    ollama: bool = False,
    offline: bool = False,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Merge a run's adapter into its base model, and write weights and tokeniser for transformers.

    Args:
        run: the run folder.
        to: a folder that does not exist yet or is empty.
        dtype: of the weights; "auto" takes that in which the base model is stored.
        ollama: write a Modelfile too, for the GGUF file that llama.cpp's converter makes of the folder.
        offline: never ask a hub.
        on_stage: called with "merging" when what was given has been looked at.

    Raises:
        PathError: if there is no such run, or a file where the folder is to be.
        StorageError: if the folder is taken or the disk is too small.
        ModelError: if the base model can't be loaded, is stored quantised, or is another than the run's; or if merging
            would give another model.
    """
    folder, target = RunDir.open(run), Path(to)
    require_new_folder(target)
    config = load_run_config(folder, offline=offline)
    weights, step = trained_weights(folder, config)
    require_named_base(folder, config)
    tokenizer = tokenizer_of(config)
    on_stage("merging")
    warnings = []
    # Onto unquantised weights, also where training saw them in 4 bits: merging into 4 bits would round again.
    if config.model.quantization != "none":
        warnings.append("trained on 4-bit weights, merged into the full ones: answers differ a little.")
    full = config.lora.method == "full"
    model: Any = load_model(
        weights if full else config.model.name,
        dtype=_stored_dtype(tokenizer.name_or_path, config) if dtype == "auto" else dtype,
        device="cpu",
        trust_remote_code=config.model.trust_remote_code,
        offline=config.run.offline,
    )
    if not full:
        if getattr(model, "is_quantized", False):
            raise ModelError(
                f"{config.model.name} is stored quantised, and an adapter can't be merged into such weights.",
                hint="use the adapter unmerged: `selfaug serve RUN`, or for vLLM a LoRA adapter without lora.dora "
                "(`selfaug export RUN --vllm`). To merge one, train it on the unquantised model, with "
                "model.quantization=4bit where memory is short.",
            )
        require_same_base(folder, config, model)
        # In 32 bits, rounded once at the end.
        stored = model.dtype
        model = merge(load_adapter(model.float(), weights)).to(stored)
    # parameters() names tied weights once, as the file does.
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    arguments = config.data.chat_template_kwargs
    if arguments:
        warnings.append(
            f"trained with data.chat_template_kwargs {_as_json(arguments)}, which the folder does not hold: whoever "
            "loads it with transformers gives them to `apply_chat_template`, or prompts are others than in training."
        )
    place: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Of an export that was killed the whole model can be left; of one that is at work it must stay.
        left = ", ".join(
            str(one) for one in sorted(target.parent.glob(f"{glob.escape(target.name)}.*.partial"))
        )
        if left:
            warnings.append(
                f"left of an export that was cut off, if none is at work: {left}. Delete it then."
            )
        free = shutil.disk_usage(target.parent).free
        if size > free:
            raise StorageError(
                f"the model needs {printable_size(size)}, {target.parent} has {printable_size(free)} free.",
                hint="free space, or give a folder on another disk with --to."
                + (f" {left}: left of an export that was cut off, if none is at work." if left else ""),
            )
        # Nobody else writes there. The model's own folder is in it, as mkdtemp's is its owner's alone.
        place = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".partial", dir=target.parent))
        partial = place / "model"
        # A model that was made for plain text doesn't know what a chat's answers end with.
        if (ends := end_tokens(model, tokenizer)) != end_tokens(model):
            model.generation_config.eos_token_id = sorted(ends)
        model.save_pretrained(partial)
        for file in partial.glob("*.safetensors"):
            make_readable(file)
        tokenizer.save_pretrained(partial)
        _copy_processor(tokenizer.name_or_path, partial, offline=config.run.offline)
        if step is None:  # both are of what training has ended with
            _describe(partial, folder, config, weights, model.dtype)
        commands = [_vllm_command(target, arguments)]
        if ollama:
            text, doubts = modelfile(tokenizer, model, arguments, trained_length=config.data.max_length)
            write_text(partial / "Modelfile", text)
            warnings += doubts
            warnings.append(
                f"{_LLAMA_CPP} in the command is your checkout of https://github.com/ggml-org/llama.cpp."
            )
            commands = [
                # A script of llama.cpp. Ollama itself makes other models of safetensors, not for every machine.
                shlex.join(
                    [
                        "python",
                        f"{_LLAMA_CPP}/convert_hf_to_gguf.py",
                        str(target),
                        "--outfile",
                        str(target / _GGUF),
                    ]
                ),
                shlex.join(["ollama", "create", _ollama_name(target), "-f", str(target / "Modelfile")]),
            ]
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except Exception as error:
        if not isinstance(error, OSError) and not is_failed_write(error):
            raise
        reason = "the disk is full or a quota is reached" if is_failed_write(error) else error
        raise StorageError(
            f"can't write {target}: {getattr(error, 'strerror', None) or reason}",
            hint="give another folder with --to.",
        ) from error
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
    return Exported(target, size, step, commands, warnings)


def _describe(target: Path, run: RunDir, config: TrainConfig, weights: Path, dtype: torch.dtype) -> None:
    """Write the model card and the manifest of what was made of a complete run's weights."""
    record = read_record(run.record, "train")
    exported = {"dtype": str(dtype).removeprefix("torch."), "of": hashed_weights(weights)}
    card = exported_card(config, record, exported, weights / "README.md")
    write_text(target / "README.md", card)
    write_manifest(target, config, record, exported=exported)


def _ollama_name(target: Path) -> str:
    """The folder's name as Ollama takes one: at most 80 of its letters, the first of them no sign."""
    return re.sub(r"[^a-z0-9._-]+", "-", target.name.lower())[:80].strip("._-") or "model"


def _copy_processor(base: str, target: Path, *, offline: bool) -> None:
    """Copy what says how images become tokens, where the base model has it: vLLM asks for it, for text alone too."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        found = None
        with contextlib.suppress(OSError):  # a model of text alone has none
            found = cached_file(base, name, local_files_only=offline or Path(base).is_dir())
        if found is not None:
            shutil.copyfile(found, target / name)


def _stored_dtype(folder: str, config: TrainConfig) -> torch.dtype:
    """The dtype in which the base model is stored."""
    stored = load_model_config(
        folder, trust_remote_code=config.model.trust_remote_code, offline=config.run.offline
    ).dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32


def _vllm_command(folder: Path, chat_template_kwargs: dict[str, Any]) -> str:
    """How to serve the folder with what training gave the chat template."""
    command = ["vllm", "serve", str(folder), "--generation-config", "vllm"]
    if chat_template_kwargs:
        command += ["--default-chat-template-kwargs", _as_json(chat_template_kwargs)]
    return shlex.join(command)


def _as_json(chat_template_kwargs: dict[str, Any]) -> str:
    # YAML has dates, which a template writes as their text.
    return json.dumps(chat_template_kwargs, default=str)


# ---- Ollama

_LLAMA_CPP = "LLAMA_CPP"

_GGUF = "model.gguf"

_ANSWER_TOKENS = 1024
"""Room in the window for an answer to the longest prompt of training."""

_OTHER_DAY = date(1987, 11, 26)
"""What a chat template writes otherwise on it has today's date in it."""

_TEXTS = {role: f"<<{role} text>>" for role in ("system", "user", "assistant")}


def modelfile(
    tokenizer: PreTrainedTokenizerBase,
    model: Any,
    chat_template_kwargs: dict[str, Any],
    *,
    trained_length: int = 0,
) -> tuple[str, list[str]]:
    """Text of a Modelfile, and doubts about it.

    Args:
        tokenizer: of the model.
        model: merged.
        chat_template_kwargs: of training.
        trained_length: most tokens of a row that it was trained on: its prompts must fit.

    Ollama has templates of its own. Ours is made by rendering the chat template once and reading off what
    stands around each turn, and is written only if conversations rendered from these parts are the same.
    """
    lines, doubts = [f"FROM ./{_GGUF}"], []
    parts = _turn_parts(tokenizer, chat_template_kwargs)
    if parts is None:
        doubts.append(
            "the chat template is more than a frame around each turn, so the Modelfile has no TEMPLATE; "
            "Ollama takes one that it knows, if any. Compare its answers with `selfaug chat`."
        )
    else:
        lines.append(f'TEMPLATE """{_go_template(parts)}"""')
        if _turn_parts(on_day(tokenizer, _OTHER_DAY), chat_template_kwargs) != parts:
            doubts.append(
                f"the chat template writes the date of the day, and the Modelfile has today's for good, "
                f"{date.today().isoformat()}: Ollama's templates have no such date. Export anew where it matters."
            )
        if parts.default_system:
            lines.append(f'SYSTEM """{parts.default_system}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in _stops(tokenizer, model)]
    generation = model.generation_config
    sampled = getattr(generation, "do_sample", False)
    if sampled:
        for name in ("temperature", "top_p", "top_k"):
            value = getattr(generation, name, None)
            if value is not None:
                lines.append(f"PARAMETER {name} {value}")
    else:
        lines.append("PARAMETER temperature 0")
    # Ollama's own default has punished repetition, and greedy answers are the arg max and nothing else here.
    penalty = getattr(generation, "repetition_penalty", None) if sampled else None
    lines.append(f"PARAMETER repeat_penalty {penalty or 1.0}")
    window = window_of(model.config)
    if window:
        lines.append(f"PARAMETER num_ctx {min(window, max(8192, trained_length + _ANSWER_TOKENS))}")
    return "\n".join(lines) + "\n", doubts


@dataclass(frozen=True)
class _TurnParts:
    """What stands before and after the text of each role, and before an answer."""

    around: dict[str, tuple[str, str]]
    answer: str
    default_system: str | None


def _turn_parts(tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any]) -> _TurnParts | None:
    """The parts, or None if the template can't be taken apart."""
    import jinja2

    # A beginning token that the tokeniser adds by itself, Ollama adds too.
    added = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    begin = (tokenizer.bos_token or "") if added else ""

    def render(*roles: str, generate: bool = False) -> str:
        messages = [{"role": role, "content": _TEXTS[role]} for role in roles]
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generate, **arguments
        )
        return text.removeprefix(begin)

    if tokenizer.chat_template is None:
        return None
    try:
        whole = render("system", "user", "assistant", "user")
        first, second = render("system", "user"), render("system", "user", "assistant")
        pieces = _frames(first, second, whole)
        if pieces is None:
            return None
        answer = render("system", "user", generate=True).removeprefix(first)
        parts = _TurnParts(pieces, answer, None)
        plain = render("user")
        if plain != _assemble(parts, "user"):
            frame = parts.around["system"]
            rest = _assemble(parts, "user")
            if not (plain.startswith(frame[0]) and plain.endswith(frame[1] + rest)):
                return None
            default = plain[len(frame[0]) : len(plain) - len(frame[1] + rest)]
            parts = _TurnParts(pieces, answer, default)
        for roles in (("system", "user"), ("system", "user", "assistant", "user", "assistant", "user")):
            if render(*roles, generate=True) != _assemble(parts, *roles) + answer:
                return None
    except (jinja2.TemplateError, TypeError, ValueError, KeyError):
        return None
    return parts


def _frames(first: str, second: str, whole: str) -> dict[str, tuple[str, str]] | None:
    """What stands around each role; the second user turn shows where a user's frame begins."""
    assistant = second.removeprefix(first).split(_TEXTS["assistant"])
    user = whole.removeprefix(second).split(_TEXTS["user"])
    system = first.removesuffix(_TEXTS["user"].join(user)).split(_TEXTS["system"])
    if not (len(assistant) == len(user) == len(system) == 2) or first == second:
        return None
    return {
        "system": (system[0], system[1]),
        "user": (user[0], user[1]),
        "assistant": (assistant[0], assistant[1]),
    }


def _assemble(parts: _TurnParts, *roles: str) -> str:
    return "".join(parts.around[role][0] + _TEXTS[role] + parts.around[role][1] for role in roles)


def _go_template(parts: _TurnParts) -> str:
    """The parts in the language of Ollama's templates.

    A chat template may write the frame of a system message where there is none, with nothing in it, as Llama 3.1's.
    """

    def quoted(text: str) -> str:
        return text.replace("{{", '{{ "{{" }}')

    def turn(role: str) -> str:
        before, after = parts.around[role]
        return f"{quoted(before)}{{{{ .Content }}}}{quoted(after)}"

    system = turn("system").replace(".Content", ".System")
    begin = (
        # Without a hyphen, which would take the line break at the frame's end away.
        f"{system}{{{{ range .Messages }}}}"
        if parts.default_system == ""
        else f"{{{{- if .System }}}}{system}{{{{ end }}}}{{{{- range .Messages }}}}"
    )
    return (
        begin
        + '{{ if eq .Role "user" }}'
        + turn("user")
        + '{{ else if eq .Role "assistant" }}'
        + turn("assistant")
        + "{{ end }}{{ end }}"
        + quoted(parts.answer)
    )


def _stops(tokenizer: PreTrainedTokenizerBase, model: Any) -> list[str]:
    """Texts of the end tokens."""
    return [str(tokenizer.convert_ids_to_tokens(one)) for one in sorted(end_tokens(model, tokenizer))]
