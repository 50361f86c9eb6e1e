"""What `selfaug prepare`, `selfaug recall` and `selfaug ask` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from selfaug.cli.terminal import printable
from selfaug.core.printable import counted
from selfaug.phases.preparation_card import said_of_chance, said_of_unnamed

if TYPE_CHECKING:
    from selfaug.retrieval.retriever import Passage

__all__ = ["show_passages", "show_preparation", "show_recall"]

_SHOWN = 10
_EXCERPT = 160


def show_preparation(record: Mapping[str, Any], folder: Path) -> None:
    """Counts, splits, recall, and where everything is."""
    console = Console()
    documents = record["documents"]
    console.print(
        f"{counted(documents['in_index'], 'document')} in {counted(documents['chunks'], 'passage')}; "
        f"{counted(documents['read'], 'was', 'were')} read, "
        f"{counted(documents['unchanged'], 'is', 'are')} unchanged, {len(documents['unreadable']):,} can't be read.",
        highlight=False,
    )
    for ending, files in documents["unsupported"].items():
        console.print(
            f"{ending}: files of a kind that isn't read: {files['files']:,}", highlight=False, markup=False
        )
    if "rows" in record:
        table = Table("split", "rows", "documents", "without the answer")
        for split, found in record["rows"].items():
            table.add_row(
                split, f"{found['rows']:,}", f"{found['documents']:,}", f"{found['without_answer']:,}"
            )
        console.print(table)
        left_out = record["questions"]["left_out"]
        if left_out:
            them = counted(len(left_out), "question is", "questions are")
            console.print(f"{them} left out; the card says why.", highlight=False)
        show_recall(record["recall"])
    for label, name in (("card", "card.md"), ("index", "index")):
        console.print(f"{label}: {folder / name}", highlight=False, markup=False, soft_wrap=True)


def show_recall(recall: Mapping[str, Any]) -> None:
    """Recall by depth, and questions that are missed, or were left out.

    Args:
        recall: as `measure_recall` gives it; what `selfaug recall` found also has `left_out`.
    """
    console = Console()
    table = Table("passages", "a right one among them", "95 % interval")
    for k, at in recall["at"].items():
        table.add_row(k, f"{100 * at['recall']:.1f} %", f"{100 * at['low']:.1f} to {100 * at['high']:.1f} %")
    console.print(table)
    console.print(f"{counted(recall['questions'], 'question')}, searched in all documents.", highlight=False)
    for note in filter(None, (said_of_unnamed(recall), said_of_chance(recall))):
        console.print(note, highlight=False, markup=False)
    if recall["missed"]:
        shown = ", ".join(recall["missed"][:_SHOWN])
        more = f" and {len(recall['missed']) - _SHOWN:,} more" if len(recall["missed"]) > _SHOWN else ""
        console.print(f"not found: {printable(shown)}{more}", highlight=False, markup=False)
    if left_out := recall.get("left_out"):
        console.print(f"{counted(len(left_out), 'question is', 'questions are')} left out:", highlight=False)
        for reason in left_out[:_SHOWN]:
            console.print(f"  {printable(reason)}", highlight=False, markup=False)
        if len(left_out) > _SHOWN:
            console.print(f"  and {len(left_out) - _SHOWN:,} more; --json has all.", highlight=False)


def show_passages(passages: Sequence[Passage], cited: Sequence[int]) -> None:
    """The passages of a prompt, those that the answer names marked."""
    console = Console()
    for number, passage in enumerate(passages, 1):
        mark = "*" if number in cited else " "
        place = passage.document + (f", page {passage.page}" if passage.page else "")
        place = f"{printable(place)}: " if place else ""  # a search of the user's own may not say it
        text = " ".join(printable(passage.text).split())
        text = text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"
        console.print(f"{mark}[{number}] {place}{text}", highlight=False, markup=False)
