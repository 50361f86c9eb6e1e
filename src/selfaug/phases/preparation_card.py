"""The card of prepared data: what is in it, in words and tables, for those who train on it or trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfaug.core.printable import counted
from selfaug.data.template import RetrievalTemplate
from selfaug.retrieval.follow_ups import turns_of

__all__ = ["preparation_card", "said_of_chance", "said_of_unnamed"]

_SHOWN = 20


def preparation_card(
    record: Mapping[str, Any], template: RetrievalTemplate, samples: Sequence[Mapping[str, Any]]
) -> str:
    """Markdown.

    Args:
        record: of `selfaug prepare`.
        template: of the prompts.
        samples: some training rows.
    """
    documents = record["documents"]
    parts = [
        "# Prepared data",
        f"{counted(documents['in_index'], 'document')} of `{documents['folder']}`, in "
        f"{counted(documents['chunks'], 'passage')} of at most "
        f"{record['settings']['documents']['chunk_tokens']} tokens.",
    ]
    if left_out := {**documents["left_out"], **documents["unreadable"]}:
        parts.append(_list("Left out", left_out))
    if documents["incomplete"]:
        parts.append(_list("Read, but with a note", documents["incomplete"]))
    if documents["lost"]:
        parts.append(_list("Not there any more", dict.fromkeys(documents["lost"], "was prepared before")))
    if documents["unsupported"]:
        parts.append(_list("Of a kind that isn't read", _unsupported(documents["unsupported"])))
    if "rows" in record:
        parts += [*_splits(record), *_near_copies(record), _recall(record), _lengths(record)]
        left_out = record["questions"]["left_out"]
        if left_out:
            parts.append(_list("Questions left out", dict(one.split(": ", 1) for one in left_out)))
        if by_chance := record["questions"]["by_chance"]:
            reason = "its answer stands in several sentences or rows, and no `evidence` or `page` says which is meant"
            parts.append(
                _list("Questions whose right passage may be one by chance", dict.fromkeys(by_chance, reason))
            )
        for number, row in enumerate(samples, 1):
            parts += [f"## Sample {number}", _sample(row, template)]
    else:
        parts.append("No questions were given: there is an index, and nothing to train on.")
    return "\n\n".join(parts) + "\n"


def _unsupported(endings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The number and the first of the files of each ending."""
    return {
        ending: f"{of['files']:,} file{'s' * (of['files'] > 1)} ({', '.join(of['first'])}"
        f"{', ...' * (of['files'] > len(of['first']))})"
        for ending, of in endings.items()
    }


def _list(title: str, reasons: Mapping[str, str]) -> str:
    lines = [f"- `{name}`: {reason}" for name, reason in list(reasons.items())[:_SHOWN]]
    if len(reasons) > _SHOWN:
        lines.append(f"- and {len(reasons) - _SHOWN:,} more, in record.json")
    return f"## {title}\n\n" + "\n".join(lines)


def _splits(record: Mapping[str, Any]) -> list[str]:
    rows = record["rows"]
    lines = [
        "| split | rows | documents | without the answer | gold passage at place |",
        "|---|---:|---:|---:|---|",
    ]
    for split, found in rows.items():
        places = ", ".join(
            f"{place}: {count}" for place, count in found["gold_at"].items() if place != "None"
        )
        lines.append(
            f"| {split} | {found['rows']:,} | {found['documents']:,} | {found['without_answer']:,} | {places} |"
        )
    questions = record["questions"]
    further = rows["train"].get("follow_ups", 0)
    return [
        "## Splits",
        "No document is in two splits, and neither are questions that are alike: a row's passages come from the "
        "documents of its own split.",
        "\n".join(lines),
        f"{counted(questions['pairs'], 'question')}; "
        f"{counted(questions['unanswerable'], 'of them has', 'of them have')} no answer in the documents, and "
        f"{counted(questions['similar'], 'is', 'are')} like another one.",
        *(
            [f"The rows to train on ask {counted(further, 'further question')} about their passages."]
            if further
            else []
        ),
    ]


def _near_copies(record: Mapping[str, Any]) -> list[str]:
    sets = record["near_copies"]
    if not sets:
        return []
    others = {
        first: ", ".join(f"`{path}`" for path in paths[:_SHOWN])
        + (f" and {len(paths) - _SHOWN:,} more, in record.json" if len(paths) > _SHOWN else "")
        for first, *paths in sets
    }
    return [
        _list("Kept in one split, since they are nearly the same", others),
        "They have most of their words and figures in common, as one report in two formats has.",
    ]


def _recall(record: Mapping[str, Any]) -> str:
    recall = record["recall"]
    lines = ["| passages | a right one among them | 95 % interval |", "|---:|---:|---|"]
    lines += [
        f"| {k} | {100 * at['recall']:.1f} % | {100 * at['low']:.1f} to {100 * at['high']:.1f} % |"
        for k, at in recall["at"].items()
    ]
    told = f"Searching all documents for {recall['questions']:,} questions that have an answer:"
    notes = "".join(f"\n\n{note}" for note in (said_of_unnamed(recall), said_of_chance(recall)) if note)
    return f"## Recall\n\n{told}\n\n" + "\n".join(lines) + notes + _glossary(record)


def said_of_unnamed(recall: Mapping[str, Any]) -> str:
    """What recall says of questions without a document; nothing where all have one.

    Args:
        recall: as `measure_recall` gives it.
    """
    if recall["unnamed"]:
        return (
            "None of them names a `document`: their right passages are some of those that the search itself finds, so "
            "that these shares are too high, and no bound of what a model can answer."
        )
    if not recall["unnamed_left_out"]:
        return ""
    left_out = counted(recall["unnamed_left_out"], "question that names", "questions that name")
    return f"Without {left_out} no `document`: what is right for such a one is looked for among what the search finds."


def said_of_chance(recall: Mapping[str, Any]) -> str:
    """What recall says of questions for which a passage may be right by chance; nothing where there are none.

    Args:
        recall: as `measure_recall` gives it.
    """
    if not recall["by_chance"]:
        return ""
    have = counted(len(recall["by_chance"]), "has", "have")
    told = (
        f"Of the questions measured, {have} neither `evidence` nor `page`, and an answer that stands in several "
        "sentences or rows, so that a passage may count as right by chance."
    )
    without = ", ".join(f"{100 * share:.1f} % at {k}" for k, share in recall["without_chance"].items())
    return told + (without and f" Without them: {without}.")


def _glossary(record: Mapping[str, Any]) -> str:
    of = record["retrieval"]["glossary"]
    if not of["groups"]:
        return ""
    return f"\n\nWith a glossary of {of['words']:,} words and phrases in {counted(of['groups'], 'group')}."


def _lengths(record: Mapping[str, Any]) -> str:
    lines = ["| tokens | median | 95 % have at most | most |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {sizes['median']:,} | {sizes['95 %']:,} | {sizes['most']:,} |"
        for name, sizes in record["tokens"].items()
    ]
    return "## Lengths\n\n" + "\n".join(lines)


def _sample(row: Mapping[str, Any], template: RetrievalTemplate) -> str:
    """Prompt and completion, indented: that shows any text as it is."""
    messages = template.dialogue(row["context"], turns_of(row))
    text = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
    return "\n".join(f"    {line}" for line in text.splitlines())
