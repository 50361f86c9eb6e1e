"""From documents and question-answer pairs to an index, and training rows with retrieved passages."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from selfaug.core.printable import counted
from selfaug.data.encode import keeps_earlier_turns, keeps_system_message
from selfaug.data.sources import data_files
from selfaug.data.template import RetrievalTemplate
from selfaug.errors import ConfigError, DataError, ModelError, PathError, StorageError
from selfaug.phases.known_splits import SPLITS, read_known_splits, write_known_splits
from selfaug.phases.preparation_card import preparation_card
from selfaug.phases.prepared_folder import prepare_again_command
from selfaug.phases.prepared_rows import make_rows
from selfaug.phases.progress import Progress
from selfaug.phases.question_files import load_pairs
from selfaug.prepare_config import PrepareConfig, dump_prepare_config, load_prepare_config
from selfaug.records import read_record, write_lines, write_record, write_text, writing_into
from selfaug.retrieval.chunking import Chunk, Chunker, count_words
from selfaug.retrieval.folder_files import PREPARED_MARKER, PREPARED_SETTINGS, folder_files
from selfaug.retrieval.follow_ups import turns_of
from selfaug.retrieval.glossary import read_glossary
from selfaug.retrieval.index import Index, IndexWriter
from selfaug.retrieval.near_copies import near_copies, sketch_of
from selfaug.retrieval.read_folder import MEMORY_BYTES, FolderReport, read_folder
from selfaug.retrieval.retriever import Retriever, own_retriever
from selfaug.retrieval.tokens import Words
from selfaug.rundir import alone_in, without_lock

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["RECORD_KIND", "prepare"]

RECORD_KIND = "prepare"

_READER = 2
"""Counted up when documents are read otherwise than before: then unchanged ones are read again, too."""

_OF_EACH_TIME = {
    "run",
    "questions",
    "documents.folder",
    "documents.processes",
    "documents.seconds",
    "documents.max_megabytes",
}
"""Sections and settings that may well be others when a folder is prepared anew."""

_OF_THIS_TIME = (
    ("documents", "folder"),
    ("documents", "processes"),
    ("documents", "seconds"),
    ("documents", "max_megabytes"),
    ("questions", "files"),
    ("questions", "skip_bad_rows"),
)
"""Those of them that say what is prepared, and which of the documents can be read."""

_FILES = (("retrieval", "glossary"), ("rows", "template"), ("documents", "tokenizer"))
"""Settings that name a file or folder, which may be named in several ways; a tokeniser may also be one of the hub."""

_NAMED_TITLES, _NAMED_DOCUMENTS = 3, 3

CountTokens = Callable[[Sequence[str]], list[int]]

Report = Callable[[Progress], None]


def prepare(config: PrepareConfig, *, on_progress: Report = lambda _: None) -> dict[str, Any]:
    """Read the documents, make the index, and from pairs the rows of the splits; the record comes last.

    Unchanged documents are not read again when the same folder is prepared anew.

    Args:
        config: the settings.
        on_progress: called with what is being done.

    Returns:
        The data of the record.

    Raises:
        ConfigError, DataError: if settings, glossary, template or pairs can't be used; whether the documents have
            what pairs say shows when the index is made.
        StorageError: if the folder holds something else, can't be written, or is being prepared by another process.
    """
    folder = Path(config.run.output)
    template = (
        RetrievalTemplate.from_file(config.rows.template) if config.rows.template else RetrievalTemplate()
    )
    retriever = None if config.retrieval.retriever == "bm25" else own_retriever(config.retrieval.retriever)
    glossary = _glossary(config)
    count = _token_counter(config, template, on_progress)
    documents = Path(config.documents.folder)
    if not documents.is_dir():
        what = (
            f"{documents} is a file, not a folder."
            if documents.exists()
            else f"there is no folder {documents}."
        )
        raise DataError(what, hint="give the folder that your documents are in.")
    # Reading the documents can take minutes, and what was prepared before goes: what shows without it is told first.
    paths = folder_files(documents, lambda *_: None, _own_files(config))
    load_pairs(config.questions.files, paths, skip_bad_rows=config.questions.skip_bad_rows)
    with alone_in(folder, "is being prepared", hint="wait for it, or give another --output."):
        return _prepared(config, folder, template, retriever, glossary, count, on_progress)


def _prepared(
    config: PrepareConfig,
    folder: Path,
    template: RetrievalTemplate,
    retriever: Retriever | None,
    glossary: list[list[str]],
    count: CountTokens,
    on_progress: Report,
) -> dict[str, Any]:
    _open(folder, config)
    _warn_of_other_settings(config, on_progress)
    known, dealt_anew = read_known_splits(folder, config.split)
    if config.questions.files and dealt_anew:
        on_progress(Progress("warning", message=dealt_anew))

    made = None
    with IndexWriter(folder / "index", _index_settings(config, glossary), _limits(config)) as writer:
        index, read = _make_index(config, writer, count, on_progress)
        if config.questions.files:
            # Pairs may say of the documents what isn't so, and a function of the user's can fail at any question: what
            # was prepared before stays till neither has.
            made = make_rows(config, index, index if retriever is None else retriever, known, on_progress)
        _begin_anew(folder, config)
        writer.take_its_place()
    record: dict[str, Any] = {
        "settings": config.model_dump(mode="json"),
        "documents": {
            "folder": config.documents.folder,
            "prepared_in": os.getcwd(),
            "in_index": len(index.documents),
            "chunks": len(index),
            **read.to_dict(),
        },
        "template": template.to_dict(),
        "retrieval": {
            "retriever": config.retrieval.retriever,
            "passages": config.rows.passages,
            "glossary": {"groups": len(glossary), "words": sum(map(len, glossary))},
        },
    }  # fmt: skip
    write_text(folder / "template.yaml", yaml.safe_dump(template.to_dict(), allow_unicode=True))
    samples: list[dict[str, Any]] = []
    if made is not None:
        rows, report, found = made
        # Before the rows: a split that nobody knows of could not be kept.
        write_known_splits(folder, config.split, known, found)
        for split in SPLITS:
            if rows[split]:
                write_lines(folder / f"{split}.jsonl", rows[split])
        sizes = _row_sizes(rows, template, count)
        report["tokens"] = _lengths(sizes)
        record |= report
        _warn_of_window(config, sizes, on_progress)
        samples = rows["train"][:3]
    write_text(folder / "card.md", preparation_card(record, template, samples))
    write_record(folder / "record.json", RECORD_KIND, record)
    return record


def _open(folder: Path, config: PrepareConfig) -> None:
    """Make the folder, or take one that was prepared before, which stays as it is."""
    settings, record = folder / PREPARED_SETTINGS, folder / "record.json"
    if folder.exists() and not folder.is_dir():
        raise PathError(f"{folder} is a file, not a folder.", hint="give another --output.")
    if folder.is_dir() and without_lock(folder):
        marked = settings.is_file() and settings.read_text(encoding="utf-8").startswith(PREPARED_MARKER)
        if not marked:
            raise StorageError(
                f"{folder} is not empty and was not made by selfaug prepare.", hint="give another --output."
            )
        if record.exists() and not config.run.overwrite:
            raise StorageError(
                f"{folder} is prepared already.",
                hint="--overwrite prepares it anew, and reads only documents that have changed; or give another "
                "--output.",
            )
    with writing_into(folder, hint="give another --output."):
        folder.mkdir(parents=True, exist_ok=True)
        if not record.exists():
            write_text(settings, _settings_text(config))


def _warn_of_other_settings(config: PrepareConfig, on_progress: Report) -> None:
    """What was set before and isn't given again is the default: no longer what a model was trained with."""
    folder = Path(config.run.output)
    before = _settings_before(folder) if config.run.overwrite else None
    if before is None:
        return
    now = config.model_dump(mode="json")
    for section, name in _FILES:
        if _is_same_file(now[section][name], before[section][name]):
            now[section][name] = before[section][name]
    changed = {
        f"{section}.{name}": [json.dumps(one, ensure_ascii=False) for one in (value, before[section][name])]
        for section, values in now.items()
        if section not in _OF_EACH_TIME
        for name, value in values.items()
        if f"{section}.{name}" not in _OF_EACH_TIME and value != before[section][name]
    }
    if changed:
        differences = "; ".join(f"{name} is {value}, and was {was}" for name, (value, was) in changed.items())
        # The folder's own settings may be those of now when this is read; or of before, if this is stopped or refused.
        wanted = {name: was for name, (_, was) in changed.items()} | {
            f"{section}.{name}": json.dumps(now[section][name], ensure_ascii=False)
            for section, name in _OF_THIS_TIME
            if now[section][name] != before[section][name]
        }
        command = prepare_again_command(folder, sets=[f"{name}={value}" for name, value in wanted.items()])
        message = (
            f"{folder} was prepared with other settings before: {differences}. A model that was trained on it may "
            f"need those of before. To prepare with them, now or later: `{command}`"
        )
        on_progress(Progress("warning", message=message))


def _settings_before(folder: Path) -> dict[str, Any] | None:
    """What a folder was prepared with, files as they are named from here; None if nobody can say."""
    try:
        before = load_prepare_config(folder / PREPARED_SETTINGS).model_dump(mode="json")
    except ConfigError:  # of another version: it can't be given as --config either
        return None
    with contextlib.suppress(DataError):  # no record of a preparation that was cut off
        prepared_in = read_record(folder / "record.json", RECORD_KIND)["documents"]["prepared_in"]
        for section, name in _FILES:
            # What is not there any more was moved with the folder, perhaps, or is a tokeniser of the hub.
            file = os.path.join(prepared_in, before[section][name] or "")
            if prepared_in != os.getcwd() and before[section][name] is not None and os.path.exists(file):
                before[section][name] = file
    return before


def _is_same_file(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and Path(one).resolve() == Path(other).resolve()


def _begin_anew(folder: Path, config: PrepareConfig) -> None:
    """Write the settings; record and rows of what was prepared before go, since they will not be true of the index."""
    with writing_into(folder, hint="give another --output."):
        for name in ("record.json", *(f"{split}.jsonl" for split in SPLITS)):
            (folder / name).unlink(missing_ok=True)
        write_text(folder / PREPARED_SETTINGS, _settings_text(config))


def _settings_text(config: PrepareConfig) -> str:
    return f"{PREPARED_MARKER}\n{dump_prepare_config(config)}"


def _own_files(config: PrepareConfig) -> list[Path]:
    """What is no document, even where it is in their folder: to search the questions would give their answers away."""
    named = [config.retrieval.glossary, config.rows.template, config.run.output]
    questions = map(Path, config.questions.files)
    return [
        *(Path(name) for name in named if name is not None),
        # Of a folder only these are read.
        *(file for path in questions for file in (data_files(path) if path.is_dir() else [path])),
    ]


def _token_counter(config: PrepareConfig, template: RetrievalTemplate, on_progress: Report) -> CountTokens:
    """How tokens are counted: by the model's tokeniser, if one is named, whose chat template is looked at, too."""
    name = config.documents.tokenizer
    if name is None:
        return count_words
    from selfaug.model.loading import load_tokenizer  # brings torch, which an index alone doesn't need

    tokenizer = load_tokenizer(name, offline=config.run.offline)
    if tokenizer.chat_template is not None:
        _warn_of_chat_template(config, template, tokenizer, on_progress)

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    return count


def _warn_of_chat_template(
    config: PrepareConfig,
    template: RetrievalTemplate,
    tokenizer: PreTrainedTokenizerBase,
    on_progress: Report,
) -> None:
    """Training would refuse the rows, but only then."""
    name = config.documents.tokenizer
    if template.system is not None and not keeps_system_message(tokenizer):
        message = (
            f"the chat template of {name} refuses a system message, or doesn't keep it where it was: training refuses "
            "rows with one. Prepare with a template (rows.template) that has `system: null`, and its text in `user`."
        )
        on_progress(Progress("warning", message=message))
    if config.rows.follow_ups and not keeps_earlier_turns(tokenizer):
        message = (
            f"the chat template of {name} renders an earlier answer differently from a last one: training refuses rows "
            "with follow_ups, unless with a template that keeps earlier turns (docs/details/forms-of-rows.md). Prepare "
            "with --follow-ups 0, or give the model such a template."
        )
        on_progress(Progress("warning", message=message))


def _glossary(config: PrepareConfig) -> list[list[str]]:
    file = config.retrieval.glossary
    return [] if file is None else read_glossary(Path(file), Words(config.retrieval.language).stems)


def _index_settings(config: PrepareConfig, glossary: list[list[str]]) -> dict[str, Any]:
    return {
        "reader": _READER,
        "encoding": config.documents.encoding,
        "chunk_tokens": config.documents.chunk_tokens,
        "overlap_tokens": config.documents.overlap_tokens,
        "tokenizer": config.documents.tokenizer,
        "language": config.retrieval.language,
        "glossary": glossary,
    }


def _limits(config: PrepareConfig) -> dict[str, Any]:
    """What decides which files can't be read: with others, these are tried again."""
    return {
        "reader": _READER,
        "encoding": config.documents.encoding,
        "max_megabytes": config.documents.max_megabytes,
        "seconds": config.documents.seconds,
        "processes": config.documents.processes,  # with fewer at a time each is quicker
        "memory_bytes": MEMORY_BYTES,
    }


def _make_index(
    config: PrepareConfig, writer: IndexWriter, count: CountTokens, on_progress: Report
) -> tuple[Index, FolderReport]:
    """The index that has not taken its place yet, and what was read for it; what it lacks is told.

    Raises:
        DataError: if no document has text.
    """
    chunker = Chunker(config.documents.chunk_tokens, config.documents.overlap_tokens, count)
    report = FolderReport()
    if writer.reads_otherwise:
        message = (
            "all documents are read anew, since this selfaug reads documents otherwise than the one before."
        )
        on_progress(Progress("warning", message=message))

    def documents() -> Iterator[tuple[dict[str, Any], list[Chunk] | None]]:
        for read in read_folder(
            Path(config.documents.folder),
            writer.known,
            report,
            processes=config.documents.processes,
            seconds_per_file=config.documents.seconds,
            max_bytes=int(config.documents.max_megabytes * 1_000_000),
            encoding=config.documents.encoding,
            on_progress=lambda done, total: on_progress(Progress("reading documents", done, total)),
            own=_own_files(config),
            listed=writer.listed,
            unreadable=writer.unreadable,
            on_unreadable=writer.add_unreadable,
        ):
            named = {
                "path": read.path, "digest": read.digest, "size": read.size, "modified": read.modified
            }  # fmt: skip
            if read.document is None:
                yield {**writer.before[read.path], **named}, None
                if missing := writer.before[read.path].get("missing"):
                    report.incomplete[read.path] = missing
            else:
                named |= {
                    "title": read.document.title,
                    "missing": read.document.missing,
                    "sketch": sketch_of(read.document),
                }
                yield named, chunker.chunks(read.document)

    index = writer.write(documents())
    if not len(index):  # a folder that is not mounted, too: what was prepared before stays
        left_out = sorted({**report.left_out, **report.unreadable}.items())
        raise DataError(
            f"no document in {config.documents.folder} has text.",
            problems=[f"{path}: {reason}" for path, reason in left_out[:20]],
            hint="PDF, DOCX, XLSX, HTML, Markdown, plain text and CSV are read.",
        )
    # Before the questions: an answer may stand in no passage because its document can't be read.
    _tell(config, report, on_progress)
    _warn_of_titles(config, index, on_progress)
    return index, report


def _tell(config: PrepareConfig, report: FolderReport, on_progress: Report) -> None:
    """Which documents the index lacks, in whole or in part."""
    told = {path: f"left out: {reason}" for path, reason in {**report.left_out, **report.unreadable}.items()}
    told |= {path: f"read, but: {missing}" for path, missing in report.incomplete.items()}
    for path, what in sorted(told.items()):
        on_progress(Progress("warning", message=f"{path} is {what}"))
    _warn_of_lost(config, report.lost, on_progress)


def _warn_of_lost(config: PrepareConfig, lost: Sequence[str], on_progress: Report) -> None:
    """A folder within the documents' that isn't mounted looks as if its documents had been deleted."""
    if not lost:
        return
    gone = counted(
        len(lost), "document that was prepared before is", "documents that were prepared before are"
    )
    message = (
        f"{gone} not there any more: {', '.join(lost[:5])}{', ...' * (len(lost) > 5)}; the index has no passages of "
        f"{'it' if len(lost) == 1 else 'them'}. If that should not be, look whether all of {config.documents.folder} "
        "is mounted, and prepare anew."
    )
    on_progress(Progress("warning", message=message))


def _warn_of_titles(config: PrepareConfig, index: Index, on_progress: Report) -> None:
    """Different documents with one title, as of a template, look the same above their passages."""
    by_title: dict[str, dict[str, dict[str, Any]]] = {}  # by digest: the first of the same files
    for document in index.documents:
        by_title.setdefault(document["title"], {}).setdefault(document["digest"], document)
    shared = {}
    for title, documents in by_title.items():
        sketches = {digest: document["sketch"] for digest, document in documents.items()}
        similar = config.split.similar_documents
        near = near_copies(sketches, similar) if len(documents) > 1 and similar is not None else []
        if len(documents) > 1 and not any(len(same) == len(documents) for same in near):
            shared[title] = [document["path"] for document in documents.values()]
    if not shared:
        return
    shown = "; ".join(
        f"{title!r:.80} of {', '.join(paths[:_NAMED_DOCUMENTS])}{', ...' * (len(paths) > _NAMED_DOCUMENTS)}"
        for title, paths in list(shared.items())[:_NAMED_TITLES]
    )
    message = (
        f"{sum(map(len, shared.values())):,} documents have the title of another one that is not the same: {shown}"
        f"{'; ...' * (len(shared) > _NAMED_TITLES)}. Neither a search nor a model can tell their passages apart by it, "
        "and what several of them say in the same words is shown once, as the first one's. Give each "
        "one of its own: in its properties, its <title> or front matter, or, without a title there, by its first "
        "heading or its file's name."
    )
    on_progress(Progress("warning", message=message))


def _row_sizes(
    rows: dict[str, list[dict[str, Any]]], template: RetrievalTemplate, count: CountTokens
) -> list[tuple[int, int]]:
    """Tokens of what each row asks and of what it answers; the chat template's own tokens come on top."""
    dialogues = [template.dialogue(row["context"], turns_of(row)) for split in SPLITS for row in rows[split]]

    def said(by_model: bool) -> list[str]:
        return [
            "\n".join(one["content"] for one in messages if (one["role"] == "assistant") == by_model)
            for messages in dialogues
        ]

    return list(zip(count(said(False)), count(said(True)), strict=True))


def _lengths(row_sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    found = {}
    for name, unsorted in zip(("prompt", "completion"), zip(*row_sizes, strict=True), strict=True):
        sizes = sorted(unsorted)
        found[name] = {
            "median": sizes[len(sizes) // 2], "95 %": sizes[int(0.95 * (len(sizes) - 1))], "most": sizes[-1]
        }  # fmt: skip
    return found


def _warn_of_window(config: PrepareConfig, row_sizes: Sequence[tuple[int, int]], on_progress: Report) -> None:
    """Training would say so as well, but only then."""
    name = config.documents.tokenizer
    if name is None:
        return
    from selfaug.model.loading import context_window

    window = None
    with contextlib.suppress(ModelError):  # a tokeniser without a model
        window = context_window(name, offline=config.run.offline)
    if window is None:
        return
    too_long = [prompt + completion for prompt, completion in row_sizes if prompt + completion > window]
    if too_long:
        message = (
            f"{len(too_long):,} of {len(row_sizes):,} rows have more tokens than the window of {name} ({window:,}), up "
            f"to {max(too_long):,}: in training they lose passages or are refused. Prepare with fewer --passages or a "
            "smaller --chunk-tokens."
        )
        on_progress(Progress("warning", message=message))
