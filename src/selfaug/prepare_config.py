"""Settings of `selfaug prepare`: from a folder of documents to training rows.

Precedence: `--set` over flags over the file over the defaults. Paths are relative to the working folder; `~` is the
home folder.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, field_validator, model_validator

from selfaug.settings_file import (
    Integer,
    Number,
    Section,
    SettingsForm,
    Strings,
    from_home,
    read_settings,
    refuse_combinations,
)

__all__ = ["PREPARE_FLAGS", "PrepareConfig", "dump_prepare_config", "load_prepare_config"]

PREPARE_FLAGS: dict[str, str] = {
    "FOLDER": "documents.folder",
    "--questions": "questions.files",
    "--model": "documents.tokenizer",
    "--chunk-tokens": "documents.chunk_tokens",
    "--passages": "rows.passages",
    "--follow-ups": "rows.follow_ups",
    "--retriever": "retrieval.retriever",
    "--glossary": "retrieval.glossary",
    "--template": "rows.template",
    "--completion": "rows.completion",
    "--seed": "split.seed",
    "--skip-bad-rows": "questions.skip_bad_rows",
    "--output": "run.output",
    "--overwrite": "run.overwrite",
    "--offline": "run.offline",
}
"""The settings that have a flag of their own, by flag."""


class DocumentSettings(Section):
    """Which documents, and how they are cut into passages."""

    folder: str = Field(min_length=1, description="All documents in it and in the folders within are read.")
    tokenizer: str | None = Field(
        default=None,
        description="Model whose tokens are counted; without it, words and signs are, which is near enough.",
    )
    chunk_tokens: Annotated[Integer, Field(ge=32)] = Field(
        default=256, description="Most tokens in a passage, its title and headings included."
    )
    overlap_tokens: Annotated[Integer, Field(ge=0)] = Field(
        default=32,
        description="A section that is cut goes on with the sentences before the cut, up to so many.",
    )
    encoding: str | None = Field(
        default=None,
        description="Of HTML, Markdown, text and CSV files that don't say theirs and are not in UTF-8, like `cp1250` "
        "or `shift_jis`; without it, Windows-1252, and which files these are is told.",
    )
    max_megabytes: Annotated[Number, Field(gt=0)] = Field(
        default=100.0, description="A larger file is not read, but reported."
    )
    seconds: Annotated[Number, Field(gt=0)] = Field(
        default=120.0, description="A file that takes longer is not read, but reported."
    )
    processes: Annotated[Integer, Field(ge=1)] = Field(default=2, description="Files read at the same time.")

    _paths = field_validator("folder", "tokenizer")(from_home)

    @field_validator("encoding")
    @classmethod
    def _extends_ascii(cls, name: str | None) -> str | None:
        if name is None:
            return None
        letters = bytes(range(128))
        try:
            # ISO 2022 writes other letters as ASCII after an escape.
            extends = (
                letters.decode(name) == letters.decode("ascii") and "iso2022" not in codecs.lookup(name).name
            )
        except LookupError as error:
            raise ValueError(
                f"Python knows no encoding {name!r}; give one like 'cp1250' or 'shift_jis'"
            ) from error
        except ValueError:
            extends = False
        if not extends:
            raise ValueError(f"files in {name} can't be told from UTF-8 or binary ones; save them as UTF-8")
        return name


class RetrievalSettings(Section):
    """How passages are found."""

    retriever: str = Field(
        default="bm25",
        min_length=1,
        description="`bm25`, or your own: `module:function`, called with a question and how many passages. Rows are "
        "made of its passages, for which it has to name each one's `document`.",
    )
    language: str | None = Field(
        default="english",
        description="Of the documents: words are compared without their endings. Null compares them as they are.",
    )
    glossary: str | None = Field(
        default=None,
        min_length=1,
        description="Text file of words and phrases that mean the same, a group a line, with commas between them; "
        "`bm25` finds each by the others.",
    )

    _paths = field_validator("glossary")(from_home)


class QuestionSettings(Section):
    """Question-answer pairs. Without any, only the index is made."""

    files: Strings = Field(
        default=[],
        description="JSONL or CSV with `question`, `answer`, and where the answer stands: `document`, and if you know "
        "it `evidence` (words of the passage) or `page`.",
    )
    skip_bad_rows: bool = Field(default=False, description="Leave bad pairs out, and say how many.")

    _paths = field_validator("files")(from_home)


class RowSettings(Section):
    """What a training row is made of."""

    passages: Annotated[Integer, Field(ge=1)] = Field(default=5, description="Passages in a prompt.")
    no_answer_share: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.1,
        description="Share of the rows whose passages don't have the answer; to say so is right there.",
    )
    no_answer: str = Field(
        default="The documents don't say.", min_length=1, description="The completion of such rows."
    )
    completion: str = Field(
        default="{answer} {sources}",
        description="Form of the completion: has `{answer}`, may have `{sources}`, the number of the passage that "
        "holds it: [2]. Of several that do, one is in the prompt.",
    )
    follow_ups: Annotated[Integer, Field(ge=0)] = Field(
        default=0,
        description="Most further questions that a training row asks about its passages, each in a turn of its own: "
        "more answers learnt for little more time, where several questions are about one passage.",
    )
    template: str | None = Field(
        default=None,
        min_length=1,
        description="YAML file with the prompt's form; see docs/how-to/retrieval-rows.md.",
    )

    _paths = field_validator("template")(from_home)

    @model_validator(mode="after")
    def _has_an_answer(self) -> RowSettings:
        try:
            self.completion.format(answer="", sources="")
        except (KeyError, IndexError, ValueError, AttributeError):
            wrong = True
        else:
            wrong = "{answer}" not in self.completion
        refuse_combinations(
            {"rows.completion: needs {answer} and may have {sources}; write a literal brace twice": wrong}
        )
        return self


class SplitSettings(Section):
    """How documents are divided into training, validation and test: no document is in two of them."""

    validation: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.1, description="Share of the questions."
    )
    test: Annotated[Number, Field(ge=0, lt=1)] = Field(default=0.2, description="Share of the questions.")
    similar: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=0.85,
        description="Questions that share so much of their words, rare words counting more, are kept together, and "
        "their documents with them, over any number of steps.",
    )
    similar_documents: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=0.7,
        description="Documents that have so much of their words, and also of their figures, in common, such as one "
        "report in two formats, are kept together. Null keeps only identical files together.",
    )
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] = Field(
        default=0,
        description="Of the split, of the gold passages' places, and of the rows without an answer. Another seed deals "
        "documents out anew where they were prepared before.",
    )

    @model_validator(mode="after")
    def _leaves_rows_to_train_on(self) -> SplitSettings:
        nothing = self.validation + self.test >= 1
        refuse_combinations({"split.test: with split.validation it leaves nothing to train on": nothing})
        return self


class OutputSettings(Section):
    """Where everything is written."""

    output: str = Field(default="data/prepared", min_length=1)
    overwrite: bool = False
    offline: bool = Field(default=False, description="Use only what is on this machine.")

    _paths = field_validator("output")(from_home)


class PrepareConfig(Section):
    """All settings of `selfaug prepare`. `load_prepare_config` reads one."""

    documents: DocumentSettings
    retrieval: RetrievalSettings = RetrievalSettings()
    questions: QuestionSettings = QuestionSettings()
    rows: RowSettings = RowSettings()
    split: SplitSettings = SplitSettings()
    run: OutputSettings = OutputSettings()

    @model_validator(mode="after")
    def _settings_fit_together(self) -> PrepareConfig:
        large = self.documents.overlap_tokens > self.documents.chunk_tokens // 2
        refuse_combinations(
            {"documents.overlap_tokens: should be at most half of documents.chunk_tokens": large}
        )
        return self


_FORM = SettingsForm(
    PrepareConfig, PREPARE_FLAGS, required={"documents": "documents.folder"}, command="selfaug prepare"
)


def load_prepare_config(
    file: str | os.PathLike[str] | None = None,
    flags: Mapping[str, object] | None = None,
    sets: Sequence[str] = (),
) -> PrepareConfig:
    """Settings from a YAML file, flags and `--set a.b=value`; the later ones win.

    Args:
        file: YAML file with the sections of `PrepareConfig`.
        flags: values by flag, see `PREPARE_FLAGS`; None means not given.
        sets: texts of the form "section.key=value"; the value is read as YAML.

    Raises:
        ConfigError: with every problem in `problems`: its place, what is wrong, and the nearest valid name.
    """
    return read_settings(_FORM, None if file is None else Path(file), flags, sets)


def dump_prepare_config(config: PrepareConfig) -> str:
    """The settings as YAML that `load_prepare_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
