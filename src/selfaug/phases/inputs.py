"""What a run is trained on: tokeniser, rows, base model and adapter, from the settings."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import os
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, OSFConfig, PeftConfig
from peft.utils.transformers_weight_conversion import (
    convert_peft_config_for_transformers,
    get_model_conversion_mapping,
)
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from selfaug.config import LoraSettings, TrainConfig
from selfaug.core.printable import counted
from selfaug.data import (
    EncodedRow,
    EncodedRows,
    LoadedRows,
    RetrievalTemplate,
    Row,
    embedded_general_rows,
    encode_rows,
    load_rows,
)
from selfaug.data.encoded_rows import token_digest
from selfaug.data.same_prompt import asked_among, learnt_digests, without_held_out, without_rows_of
from selfaug.data.sources import Problem, data_files, describe_sources
from selfaug.errors import ConfigError, DataError, SelfAugError
from selfaug.model.adapters import fused_layers
from selfaug.model.four_bit import keep_unpacked
from selfaug.model.loading import best_dtype, context_window, load_model, load_tokenizer
from selfaug.model.running_batch import require_generation
from selfaug.phases.learnt import learnt_so_far
from selfaug.phases.prepared_folder import no_answer_of, prepared_record, require_template
from selfaug.phases.run_files import load_run_config, place_of
from selfaug.rundir import RunDir
from selfaug.settings_file import nearest_name

__all__ = [
    "TrainingData",
    "adapter_config",
    "compute_dtype",
    "load_base_model",
    "load_training_data",
    "model_window",
    "on_day",
    "read_rows",
    "require_known_tokens",
    "require_usable_after_training",
    "resolve_device",
    "rows_still_there",
    "template_of",
    "tokenizer_of",
    "trained_rows",
    "training_device",
    "writes_date",
]

_PROBLEMS_SHOWN = 3
"""A warning names this many rows that were left out, beside how many there are."""

_NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
"""How a chat template has today's date, in a form such as "%d %b %Y" (Llama 3.2, gpt-oss)."""


@dataclass(frozen=True)
class TrainingData:
    """Tokeniser and encoded rows.

    Attributes:
        tokenizer: of the base model.
        train: rows to train on.
        eval: rows to evaluate on, or None.
        max_length: most tokens in a row: the setting, or the model's window if that is less.
        report: counts and hashes, for the record.
        warnings: what the user should know.
        learnt: `learnt_digests` of all rows to train on or to replay, one after the other; empty where nobody
            has asked for them.
        day: as given to `load_training_data`.
    """

    tokenizer: PreTrainedTokenizerBase
    train: EncodedRows
    eval: EncodedRows | None
    max_length: int
    report: dict[str, Any]
    warnings: list[str]
    learnt: bytes
    day: date | None = None


def load_training_data(
    config: TrainConfig,
    template: RetrievalTemplate | None = None,
    day: date | None = None,
    *,
    learnt: bool = False,
) -> TrainingData:
    """Read, validate and encode the rows.

    Args:
        config: the settings.
        template: of a run that has begun, from `trained_template`: its file may say something else by now. None reads
            the file that the settings name.
        day: that a chat template writes into prompts as today's; None for today.
        learnt: whether `TrainingData.learnt` is wanted, which takes minutes for gigabytes of text.

    Raises:
        DataError, ModelError, ConfigError: if rows, tokeniser or template can't be used.
    """
    tokenizer, window = tokenizer_of(config), model_window(config)
    rendering = tokenizer if day is None else on_day(tokenizer, day)
    max_length = min(config.data.max_length, window or config.data.max_length)
    template = template or template_of(config)
    loaded = {
        part: read_rows(config, template, sources) for part, sources in _sources(config).items() if sources
    }
    asked_by_held_out = None
    if config.data.skip_held_out and config.data.eval:
        loaded, asked_by_held_out = _without_held_out(config, template, loaded)
    told = [] if asked_by_held_out is None else _held_out_warnings(asked_by_held_out, loaded)
    if config.lora.start_from is not None and "replay" in loaded:
        old = _old_rows(RunDir(config.lora.start_from), loaded["train"].rows, loaded["replay"].rows)
        told += _not_old_warnings(loaded["replay"].rows, old)
        loaded["replay"] = replace(loaded["replay"], rows=old)
    train, of_train = _encoded(config, template, config.data.train, loaded["train"], rendering, max_length)
    warnings = [*train.report.warnings, *told]
    report: dict[str, Any] = {"train": of_train, "max_length": max_length}
    if config.data.prepared is not None:
        report["no_answer"] = no_answer_of(Path(config.data.prepared))
    left_out = {"training": train.problems}
    if "replay" in loaded and loaded["replay"].rows:
        train, left_out["replay"], report["replay"] = _with_replay(
            config, template, loaded["replay"], train, rendering, max_length
        )
    if asked_by_held_out is not None:
        report["asked_by_held_out"] = asked_by_held_out
    evaluation = None
    if config.data.eval:
        evaluation, report["eval"] = _encoded(
            config, template, config.data.eval, loaded["eval"], rendering, max_length
        )
        left_out["evaluation"] = evaluation.problems
        known = {token_digest(row.ids) for row in train.rows}
        doubled = sum(token_digest(row.ids) in known for row in evaluation.rows)
        if doubled:
            of = f"{doubled:,} of {counted(len(evaluation.rows), 'evaluation row')}"
            warnings.append(f"{of} {'is a training row' if doubled == 1 else 'are training rows'} too.")
    for name, rows in (("training", train), ("evaluation", evaluation)):
        if rows is None:
            continue
        if rows.report.rows_shortened:
            warnings.append(
                f"{counted(rows.report.rows_shortened, f'{name} row')} lost "
                f"{counted(rows.report.passages_dropped, 'passage')} to fit into {max_length:,} tokens; "
                "`selfaug preview` shows them."
            )
    warnings += [_left_out(name, problems) for name, problems in left_out.items() if problems]
    digests = b""
    if learnt:
        every = [row for part in ("train", "replay") if part in loaded for row in loaded[part].rows]
        digests = b"".join(sorted(learnt_digests(every)))
    return TrainingData(tokenizer, train, evaluation, max_length, report, warnings, digests, day)


def tokenizer_of(config: TrainConfig) -> PreTrainedTokenizerBase:
    """The base model's tokeniser.

    Raises:
        ModelError: if it can't be loaded.
    """
    model = config.model
    return load_tokenizer(model.name, trust_remote_code=model.trust_remote_code, offline=config.run.offline)


def model_window(config: TrainConfig) -> int | None:
    """Positions that the base model was made for; None if nobody knows.

    Raises:
        ModelError: if its config can't be loaded.
    """
    model = config.model
    return context_window(model.name, trust_remote_code=model.trust_remote_code, offline=config.run.offline)


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template may write today's date into prompts."""
    return "strftime_now" in str(tokenizer.chat_template)


def on_day(tokenizer: PreTrainedTokenizerBase, day: date) -> PreTrainedTokenizerBase:
    """A tokeniser whose chat template takes a day for today: what is resumed tomorrow has the prompts of today."""
    template = tokenizer.chat_template
    if not isinstance(template, str) or not writes_date(tokenizer):
        return tokenizer
    rendering = copy.copy(tokenizer)
    rendering.chat_template = _NOW.sub(lambda now: json.dumps(day.strftime(now[2])), template)
    return rendering


def _without_held_out(
    config: TrainConfig, template: RetrievalTemplate, loaded: Mapping[str, LoadedRows]
) -> tuple[dict[str, LoadedRows], dict[str, int]]:
    """Rows without those to train on or to replay that ask what held-out rows ask; and how many these are, by part.

    Raises:
        DataError: if no row is left to train on.
    """
    # Those that aren't replayed count too: `realign` has divided new rows by what is asked everywhere among them all.
    replayed = "replay" in loaded
    old = loaded["replay"].rows if replayed else rows_still_there(config, template, config.data.replay)
    train, replay = without_held_out(loaded["eval"].rows, loaded["train"].rows, old)
    if not train:
        raise DataError(
            f"all {len(loaded['train'].rows):,} rows of data.train ask what rows of data.eval ask, which must not be "
            "trained on.",
            hint="give other rows, or other held-out ones; or, where the same questions are asked about other "
            "things, --set data.skip_held_out=false.",
        )
    kept = {
        part: replace(loaded[part], rows=rows)
        for part, rows in (("train", train), ("replay", replay))
        if part in loaded
    }
    counts = {part: len(loaded[part].rows) - len(rows.rows) for part, rows in kept.items()}
    return {**loaded, **kept}, counts


def trained_rows(config: TrainConfig, day: date | None = None) -> list[EncodedRow]:
    """Rows that a run of these settings trains on, replayed ones among them; `day` as of `load_training_data`.

    Raises:
        DataError, ModelError, ConfigError: as `load_training_data`.
    """
    # Held-out rows are read only where they say what isn't trained on.
    data = config.data if config.data.skip_held_out else config.data.model_copy(update={"eval": []})
    return load_training_data(config.model_copy(update={"data": data}), day=day).train.rows


def rows_still_there(config: TrainConfig, template: RetrievalTemplate, sources: Sequence[str]) -> list[Row]:
    """Rows that can be read, of sources that may be gone: training says so where it needs them.

    General rows that come with selfaug are none of anybody's.

    Args:
        config: how rows are read.
        template: of their prompts.
        sources: of the rows; each is read once.
    """
    rows: list[Row] = []
    for source in dict.fromkeys(sources):
        if source != "embedded":
            with suppress(SelfAugError):
                rows += read_rows(config, template, [source], skip_bad_rows=True).rows
    return rows


def _held_out_warnings(counts: Mapping[str, int], kept: Mapping[str, LoadedRows]) -> list[str]:
    names = {"train": "training row", "replay": "replay row"}
    return [
        f"{counted(count, f'{names[part]} is', f'{names[part]}s are')} left out: held-out rows ask the same."
        if kept[part].rows
        else "no row is replayed: all of data.replay ask what held-out rows ask."
        for part, count in counts.items()
        if count
    ]


def _old_rows(before: RunDir, new: Sequence[Row], replay: Sequence[Row]) -> list[Row]:
    """Rows to replay without the new ones, and without what the run before has not learnt of its own sources.

    Those of later months may stand in the same folder, or behind the old ones in a file. General rows, and others that
    the run was not trained on, are replayed whoever has learnt them.

    Args:
        before: the run that training goes on from; where nobody knows what it has learnt, all of its rows are old.
        new: rows to train on.
        replay: rows of `data.replay`.
    """
    old = without_rows_of(new, replay)
    learnt = learnt_so_far(before, load_run_config(before)) if before.is_run() else None
    if learnt is None or not learnt.whole:
        return old
    own = {source for source in {row.source for row in old} if place_of(source) in learnt.sources}
    known = asked_among(old, learnt.digests)
    return [row for row, is_known in zip(old, known, strict=True) if is_known or row.source not in own]


def _not_old_warnings(rows: Sequence[Row], old: Sequence[Row]) -> list[str]:
    """That rows to replay are none of before: the new ones stand in the same folder, or the file was made anew."""
    count = len(rows) - len(old)
    if not count:
        return []
    if not old:
        return [
            "no old row is rehearsed: those of data.replay that are not held out stand in data.train, or were not "
            "learnt before."
        ]
    none = counted(count, "replay row is no old one", "replay rows are no old ones")
    return [f"{none}: data.train has the same, or the run that training goes on from has not learnt it."]


def _left_out(name: str, problems: Sequence[Problem]) -> str:
    them = counted(len(problems), f"{name} row can't be used and is", f"{name} rows can't be used and are")
    lines = [f"{them} left out:"]
    lines += [f"  - {problem}" for problem in problems[:_PROBLEMS_SHOWN]]
    if len(problems) > _PROBLEMS_SHOWN:
        lines.append(f"  - and {len(problems) - _PROBLEMS_SHOWN:,} more")
    return "\n".join(lines)


def template_of(config: TrainConfig) -> RetrievalTemplate:
    """The template that the settings name; the built-in one if they name none.

    Raises:
        ConfigError: if its file can't be used, or is a prepared folder's and was edited.
        DataError: if it is to come from a folder that was not prepared.
    """
    file, prepared = config.data.template, config.data.prepared
    if file is None:
        return RetrievalTemplate()
    if prepared is None or Path(file) != Path(prepared, "template.yaml"):
        return RetrievalTemplate.from_file(file)
    if not Path(file).exists():
        prepared_record(Path(prepared))  # says that it is none of such a folder
    template = RetrievalTemplate.from_file(file)
    require_template(Path(prepared), template)
    return template


def _sources(config: TrainConfig) -> dict[str, list[str]]:
    """Sources of each part of the rows that is used."""
    replay = config.data.replay if config.data.replay_share > 0 else []
    return {
        "train": config.data.train,
        "replay": _each_once(
            [str(embedded_general_rows()) if source == "embedded" else source for source in replay]
        ),
        "eval": config.data.eval,
    }


def _each_once(sources: Sequence[str]) -> list[str]:
    """Sources without files that others are, or have in them: one re-alignment after another gathers all of them."""
    folders = [Path(source) for source in sources if os.path.isdir(source)]
    within = {os.path.realpath(file) for folder in folders for file in data_files(folder)}
    places = {source: os.path.realpath(source) if os.path.exists(source) else source for source in sources}
    once = {place: source for source, place in reversed(places.items())}  # the first that is named
    return [source for source, place in places.items() if once[place] == source and place not in within]


def read_rows(
    config: TrainConfig,
    template: RetrievalTemplate,
    sources: Sequence[str],
    *,
    skip_bad_rows: bool | None = None,
) -> LoadedRows:
    """Rows, read as the settings say.

    Args:
        config: the settings.
        template: of their prompts.
        sources: of the rows.
        skip_bad_rows: None as the settings say.

    Raises:
        DataError: if rows can't be used.
    """
    return load_rows(
        sources,
        template=template,
        every_assistant_turn=config.data.every_assistant_turn,
        skip_bad_rows=config.data.skip_bad_rows if skip_bad_rows is None else skip_bad_rows,
        split=config.data.split,
        offline=config.run.offline,
    )


def _encoded(
    config: TrainConfig,
    template: RetrievalTemplate,
    sources: Sequence[str],
    loaded: LoadedRows,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    skip_too_long: bool = False,
) -> tuple[EncodedRows, dict[str, Any]]:
    """Encoded rows and what to record of them; their problems are those of reading them, too.

    Args:
        config, template, sources, loaded, tokenizer, max_length: what the rows are, and are made with.
        skip_too_long: leave out rows that don't fit or can't be rendered without a word, as no problem.
    """
    encoded = encode_rows(
        loaded.rows,
        tokenizer,
        max_length=max_length,
        skip_bad_rows=config.data.skip_bad_rows or skip_too_long,
        chat_template_kwargs=config.data.chat_template_kwargs,
    )
    report = {
        "sources": describe_sources(sources),
        "forms": loaded.forms,
        "rows_skipped": len(loaded.problems) + len(encoded.problems),
        "digest": _digest(encoded),
        **({"template": template.to_dict()} if loaded.forms.get("retrieval") else {}),
        **encoded.report.to_dict(),
    }
    problems = [*loaded.problems, *([] if skip_too_long else encoded.problems)]
    problems.sort(key=lambda problem: (problem.file, problem.line))
    return replace(encoded, problems=problems), report


def _with_replay(
    config: TrainConfig,
    template: RetrievalTemplate,
    loaded: LoadedRows,
    train: EncodedRows,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> tuple[EncodedRows, list[Problem], dict[str, Any]]:
    """Training rows with general rows after them, as many as their share asks for; the trainer shuffles all.

    Returns:
        All rows, the problems of the general ones, and what to record of these.
    """
    sources = _sources(config)["replay"]
    # A share of the general rows is drawn anyway: those that don't fit are not missed.
    general, report = _encoded(config, template, sources, loaded, tokenizer, max_length, skip_too_long=True)
    share = config.data.replay_share
    count = max(1, round(len(train.rows) * share / (1 - share)))
    drawn = _drawn(general.rows, count, config.train.seed)
    mixed = EncodedRows([*train.rows, *drawn], train.report, train.problems)
    of_source = Counter(row.source for row in drawn)
    return (
        mixed,
        general.problems,
        {
            **report,
            "rows_replayed": count,
            "rows_available": len(general.rows),
            "rows_by_source": {source: of_source[source] for source in sources},
        },
    )


def _drawn(rows: Sequence[EncodedRow], count: int, seed: int) -> list[EncodedRow]:
    """So many rows in an order of the seed's, evenly over their sources; each once before any is taken twice."""
    rng = random.Random(f"replay/{seed}")
    drawn = [row for _ in range(count // len(rows)) for row in rng.sample(rows, len(rows))]
    order = rng.sample(rows, len(rows))
    left = _even_shares(Counter(row.source for row in rows), count % len(rows), rng)
    for row in order:
        if left[row.source]:
            left[row.source] -= 1
            drawn.append(row)
    return drawn


def _even_shares(sizes: Mapping[str, int], count: int, rng: random.Random) -> dict[str, int]:
    """How many rows each source gives: as many as any other, or all it has. Who gives one more is drawn."""
    shares = dict.fromkeys(sizes, 0)
    while count:
        more = [source for source in sizes if shares[source] < sizes[source]]
        each = min(count // len(more), *(sizes[source] - shares[source] for source in more))
        if each == 0:
            more, each = rng.sample(more, count), 1
        for source in more:
            shares[source] += each
        count -= each * len(more)
    return shares


def _digest(encoded: EncodedRows) -> str:
    """Hash of the rows as the model sees them; equal data give the same batches."""
    digest = hashlib.sha256()
    for row in encoded.rows:
        digest.update(len(row.ids).to_bytes(8, "little"))
        digest.update(np.asarray(row.ids, dtype="<i8").tobytes())
        digest.update(row.label_array().astype("<i8").tobytes())
    return digest.hexdigest()


def resolve_device(device: str) -> torch.device:
    """The device of this process: its own GPU under a launcher, else the first.

    Raises:
        ConfigError: if there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"model.device {device!r} is not a device.", hint="use auto, cpu or cuda."
        ) from error
    if resolved.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"model.device is {device!r}, and selfaug computes on CPUs and CUDA GPUs only.",
            hint="use auto, cpu or cuda.",
        )
    if resolved.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"model.device is {device!r}, and there is no CUDA device.",
                hint="`selfaug doctor` shows what is missing.",
            )
        if ":" not in device:
            resolved = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return resolved


def training_device(device: str) -> torch.device:
    """The device that training takes: of several GPUs the launcher's for this process, or the first.

    Raises:
        ConfigError: if there is no such device, or another GPU is named.
    """
    resolved = resolve_device(device)
    own = int(os.environ.get("LOCAL_RANK", "0"))
    if resolved.type == "cuda" and resolved.index != own:
        raise ConfigError(
            f"model.device is {device!r}, and training takes cuda:{own} here.",
            hint="leave it out: a launcher gives each process a GPU of its own."
            if "LOCAL_RANK" in os.environ
            else "leave it out, and make the one that you mean the only one that is seen, by CUDA_VISIBLE_DEVICES.",
        )
    return resolved


def compute_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """The dtype of matrix products.

    Raises:
        ConfigError: if training in it isn't possible on the device.
    """
    if config.model.dtype == "auto":
        return best_dtype(device)
    dtype: torch.dtype = getattr(torch, config.model.dtype)
    if dtype is torch.float16 and device.type != "cuda":
        raise ConfigError(
            "model.dtype float16 trains on CUDA only.", hint="use auto, float32 or bfloat16 on this device."
        )
    return dtype


def load_base_model(config: TrainConfig, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The base model, quantised if the settings say so.

    Raises:
        ModelError, ConfigError: if it can't be loaded like that.
    """
    options: dict[str, Any] = {}
    if config.model.quantization == "4bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(
                "model.quantization 4bit needs bitsandbytes.", hint='run `pip install "selfaug[qlora]"`.'
            )
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
        options["device_map"] = {"": device}
    model = load_model(
        config.model.name,
        dtype=dtype,
        device=device,
        trust_remote_code=config.model.trust_remote_code,
        offline=config.run.offline,
        **options,
    )
    keep_unpacked(model)
    return model


def require_usable_after_training(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Refuse what would train to the end and then not answer, or be another model when it is merged.

    Args:
        model: the base model, in evaluation mode and without an adapter.
        settings: of what is trained.

    Raises:
        ModelError: if the model can't write answers in batches.
        ConfigError: if an adapter is to be on layers that there are not, or on the embedding or the head where these
            have one weight.
    """
    require_generation(model)
    # A run that is gone on from has its layers, whatever its names are.
    if settings.method != "full" and settings.start_from is None:
        _require_named_layers(model, settings)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if settings.method == "full" or getattr(head, "weight", None) is not embedding.weight:
        return
    shared = [name for name, module in model.named_modules() if module is embedding or module is head]
    # As PEFT finds them: by the whole name or its last parts.
    named = [one for one in settings.target_modules if any(f".{name}".endswith(f".{one}") for name in shared)]
    if named:
        raise ConfigError(
            f"lora.target_modules names {', '.join(named)}, and the embedding of this model has the head's weight: "
            "an adapter changes one of the two, and merged it would change both.",
            hint="leave it out; `all-linear` takes all layers but these.",
        )


def _require_named_layers(model: nn.Module, settings: LoraSettings) -> None:
    """Refuse names that PEFT leaves out without a word, as long as another one names a layer.

    Raises:
        ConfigError: with all of them.
    """
    names = settings.target_modules
    if list(names) == ["all-linear"]:
        return
    if "all-linear" in names:
        others = ", ".join(one for one in names if one != "all-linear")
        raise ConfigError(
            f"lora.target_modules names {others} beside all-linear, which counts only where it stands alone.",
            hint="name all-linear alone, or each of the layers by the end of its name, such as q_proj.",
        )
    modules = [name for name, _ in model.named_modules() if name]
    ends = {name.rpartition(".")[2] for name in modules}
    of_modules = _without_expert_layers(model, settings)
    unknown = [
        f"{one}{nearest_name(one, ends)}"
        for one in names
        if one in of_modules and not any(f".{name}".endswith(f".{one}") for name in modules)
    ]
    if unknown:
        raise ConfigError(
            f"lora.target_modules names layers that this model does not have: {', '.join(unknown)}.",
            hint="name them by the ends of their names, such as q_proj; `all-linear` takes all but the head.",
        )


def _without_expert_layers(model: nn.Module, settings: LoraSettings) -> Collection[str]:
    """The names that PEFT looks for among modules.

    It takes the layers of a mixture's experts, such as `gate_proj`, for the tensor that transformers 5 joins them in.

    Raises:
        ConfigError: if only some of the layers that are joined are named.
    """
    adapter = adapter_config(settings, model)
    if adapter is None:
        return ()
    try:
        convert_peft_config_for_transformers(adapter, model, get_model_conversion_mapping(model))
    except ValueError as error:
        raise ConfigError(
            f"lora.target_modules can't be had: {error}", hint="name all of these layers, or none of them."
        ) from error
    return set(adapter.target_modules)


def require_known_tokens(model: PreTrainedModel, data: TrainingData) -> None:
    """Refuse a tokeniser with tokens that the model has no embedding of: computing would end with an index error.

    Args:
        model: the base model.
        data: tokeniser and rows.

    Raises:
        ConfigError: if a row holds such a token, or batches would be padded with one.
    """
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    rows = [*data.train.rows, *(data.eval.rows if data.eval else ())]
    largest = max(int(np.asarray(row.ids).max()) for row in rows)
    padding = data.tokenizer.pad_token_id or 0
    if known is None or max(largest, padding) < known:
        return
    token, of = (largest, "of the rows") if largest >= known else (padding, "of padding")
    raise ConfigError(
        f"the token {data.tokenizer.convert_ids_to_tokens(token)!r} {of} has the id {token:,}, and the model has "
        f"embeddings of {known:,} tokens, from 0.",
        hint="take the tokeniser that belongs to the model; or, where tokens were added to it, give the model "
        "embeddings for them (model.resize_token_embeddings(len(tokenizer))), and save both into one folder.",
    )


def adapter_config(settings: LoraSettings, model: nn.Module) -> PeftConfig | None:
    """The adapter for a model without one, or None for full fine-tuning."""
    if settings.method == "full":
        return None
    targets: str | list[str] = settings.target_modules
    if targets == ["all-linear"]:
        targets = "all-linear"
    if settings.method == "osf":
        return OSFConfig(effective_rank=settings.preserved, target_modules=targets, task_type="CAUSAL_LM")
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        exclude_modules=(fused_layers(model) or None) if targets == "all-linear" else None,
        use_dora=settings.dora,
        task_type="CAUSAL_LM",
    )
