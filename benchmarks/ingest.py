"""Reading a folder of documents: pages a second, and memory.

    python -m benchmarks.ingest --output benchmarks/results/ingest.md

For each format a folder is made whose documents have equally many pages of about 500 words, every tenth page with a
ruled table, and read with `read_folder`. Formats without pages have as much text. The start of the processes is
included; on a machine that does something else as well, the processor's time says more than pages a second.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from selfaug.retrieval.read_folder import FolderReport, read_folder

# The module is imported by the reading processes too: what brings torch is imported where it is used.

Page = tuple[str, list[str], list[list[str]]]
"""Heading, paragraphs, and the rows of a table, or none."""

_WORDS_PER_PARAGRAPH = 100
_PARAGRAPHS = 5


def main() -> None:
    from benchmarks.report import machine, publish, table

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=10_000, help="of each format")
    parser.add_argument("--pages-per-document", type=int, default=20)
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), default=list(WRITERS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None, help="of torch, which reads nothing")
    parser.add_argument("--output", type=Path, default=None, help="Markdown file to write")
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    rows, results = [], {}
    for ending in arguments.formats:
        print(f"{ending}: writing", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), ending, arguments.pages, arguments.pages_per_document)
            print(f"{ending}: reading", file=sys.stderr)
            found = measure(Path(folder), arguments.processes)
        results[ending] = found = {**found, "pages": arguments.pages}
        rows.append(
            {
                "format": ending,
                "pages": arguments.pages,
                "documents": found["documents"],
                "pages a second": f"{arguments.pages / found['seconds']:.0f}",
                "CPU ms a page": f"{1000 * found['cpu_seconds'] / arguments.pages:.1f}",
                "seconds": f"{found['seconds']:.1f}",
                "again, unchanged, seconds": f"{found['seconds_unchanged']:.2f}",
                "peak memory, MB": f"{found['peak_bytes'] / 1e6:.0f}",
                "tables": found["tables"],
            }
        )
    publish("ingest", "Reading documents", table(rows), {"results": results}, arguments.output, where)


def measure(folder: Path, processes: int) -> dict[str, Any]:
    """Seconds, peak memory, and what was found."""
    report = FolderReport()
    digests: dict[str, str] = {}
    tables = characters = 0
    with _Usage() as usage:
        began = time.perf_counter()
        for read in read_folder(folder, {}, report, processes=processes):
            assert read.document is not None
            digests[read.path] = read.digest
            tables += sum(block.kind == "table" for block in read.document.blocks)
            characters += sum(len(block.text) for block in read.document.blocks)
        seconds = time.perf_counter() - began
    assert not report.unreadable, report.unreadable
    began = time.perf_counter()
    unchanged = sum(read.document is None for read in read_folder(folder, digests, FolderReport()))
    assert unchanged == len(digests)
    return {
        "documents": len(digests),
        "tables": tables,
        "characters": characters,
        "seconds": seconds,
        "seconds_unchanged": time.perf_counter() - began,
        "cpu_seconds": usage.cpu_seconds,
        "peak_bytes": usage.peak_bytes,
    }


class _Usage:
    """What this process and those that it started take: peak memory and processor time, sampled.

    Memory that they share is counted once, where the system tells (Linux). What this process had at the beginning,
    torch above all, doesn't belong to reading and is taken off.
    """

    def __enter__(self) -> _Usage:
        self._own = psutil.Process()
        self._memory_at_first = _memory(self._own)
        self._seconds_at_first = _cpu_seconds(self._own)
        self._seconds: dict[int, float] = {}
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> float:
        """Of all processes so far, those that have ended included."""
        return sum(self._seconds.values()) - self._seconds_at_first

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            processes = [self._own, *self._own.children(recursive=True)]
            taken = sum(map(_memory, processes)) - self._memory_at_first
            self.peak_bytes = max(self.peak_bytes, taken)
            for process in processes:
                self._seconds[process.pid] = max(_cpu_seconds(process), self._seconds.get(process.pid, 0.0))


def _memory(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(getattr(memory, "pss", memory.rss))


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
    return float(times.user + times.system)


def _write(folder: Path, ending: str, pages: int, per_document: int) -> None:
    random_words = random.Random(0)
    for number, start in enumerate(range(0, pages, per_document)):
        content = [_page(random_words, page) for page in range(start, min(start + per_document, pages))]
        WRITERS[ending](folder / f"document{number:05d}{ending}", content)


def _page(generator: random.Random, number: int) -> Page:
    paragraphs = [
        " ".join(generator.choices(_WORDS, k=_WORDS_PER_PARAGRAPH)).capitalize() + "."
        for _ in range(_PARAGRAPHS)
    ]
    rows = [
        ["Region", "2023", "2024"],
        *([region, f"{number}.{row}", f"{number + 1}.{row}"] for row, region in enumerate(_REGIONS)),
    ]
    return f"Section {number}", paragraphs, rows if number % 10 == 0 else []


_REGIONS = ("North", "South", "East", "West")
_WORDS = [
    *("the", "company", "revenue", "of", "region", "rose", "fell", "by", "million", "in", "year", "quarter"),
    *("and", "plan", "board", "market", "growth", "cost", "price", "supply", "contract", "pump", "valve"),
    *("pressure", "report", "expected", "long-term", "result", "statement", "customer", "delivery"),
]


def _write_pdf(file: Path, pages: Sequence[Page]) -> None:
    from reportlab.lib import colors
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

    styles = getSampleStyleSheet()
    flowables: list[Any] = []
    for heading, paragraphs, rows in pages:
        flowables.append(Paragraph(heading, styles["Heading1"]))
        flowables += [Paragraph(text, styles["BodyText"]) for text in paragraphs]
        if rows:
            flowables.append(Table(rows, style=[("GRID", (0, 0), (-1, -1), 0.5, colors.black)]))
        flowables.append(PageBreak())
    SimpleDocTemplate(str(file)).build(flowables)


def _write_docx(file: Path, pages: Sequence[Page]) -> None:
    import docx

    document = docx.Document()
    for heading, paragraphs, rows in pages:
        document.add_heading(heading, 1)
        for text in paragraphs:
            document.add_paragraph(text)
        if rows:
            table = document.add_table(len(rows), len(rows[0]))
            for cells, texts in zip(table.rows, rows, strict=True):
                for cell, text in zip(cells.cells, texts, strict=True):
                    cell.text = text
    document.save(str(file))


def _write_html(file: Path, pages: Sequence[Page]) -> None:
    parts = ["<!DOCTYPE html><html><head><title>Report</title></head><body>"]
    for heading, paragraphs, rows in pages:
        parts.append(f"<h1>{heading}</h1>")
        parts += [f"<p>{text}</p>" for text in paragraphs]
        cells = ("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in rows)
        parts.append(f"<table>{''.join(cells)}</table>")
    file.write_text("\n".join([*parts, "</body></html>"]), encoding="utf-8")


def _write_markdown(file: Path, pages: Sequence[Page]) -> None:
    parts = []
    for heading, paragraphs, rows in pages:
        parts += [f"# {heading}", *paragraphs]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        if lines:
            parts.append("\n".join([lines[0], "|---|---|---|", *lines[1:]]))
    file.write_text("\n\n".join(parts), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Sequence[Page]], None]] = {
    ".pdf": _write_pdf,
    ".docx": _write_docx,
    ".html": _write_html,
    ".md": _write_markdown,
}


if __name__ == "__main__":
    main()
