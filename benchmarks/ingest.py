"""From a folder of documents to an index, with `selfaug prepare`: pages a second, and memory.

    python -m benchmarks.ingest --output benchmarks/results/ingest.md

For each format a folder is made whose documents have equally many pages of about 500 words, every tenth page with a
table, which has rules in PDF. Formats without pages have as much text; in workbooks and CSV each sentence is a row
with two figures, and in workbooks each page a sheet. The text is made up, from a seed: 30,000 different words, as
frequent as in real text (Zipf–Mandelbrot, the most frequent ones are English words that aren't searched for), and one
word in twenty is a figure. The command runs as a user would give it, from its start to its
end: files read, cut into passages, and these indexed. Then it runs again on the same files, with `--overwrite`. Peak
memory is that of all its processes together, Python and libraries included, looked at ten times a second. On a
machine that does something else as well, the processor's time says more than pages a second.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.made_up_words import made_up_words
from benchmarks.report import machine, publish, table
from selfaug.retrieval.index import Index

_PARAGRAPHS, _SENTENCES, _WORDS = 5, 5, 20
"""Of a page, a paragraph and a sentence."""

_DIFFERENT_WORDS = 30_000
_FIGURE_SHARE = 0.05
_REGIONS = ("North", "South", "East", "West")
_HEADER = ["Region", "2023", "2024"]


@dataclass(frozen=True)
class Page:
    """What a page says.

    Attributes:
        heading: of its own.
        paragraphs: each with its sentences.
        rows: of a table, or none; the first one is the header.
    """

    heading: str
    paragraphs: list[list[str]]
    rows: list[list[str]]

    @property
    def texts(self) -> list[str]:
        """The paragraphs."""
        return [" ".join(sentences) for sentences in self.paragraphs]

    @property
    def items(self) -> list[tuple[str, float, float]]:
        """The page as rows of a spreadsheet: each sentence with two figures."""
        sentences = (sentence for paragraph in self.paragraphs for sentence in paragraph)
        return [(sentence, float(number), number + 0.5) for number, sentence in enumerate(sentences)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=10_000, help="of each format")
    parser.add_argument("--pages-per-document", type=int, default=20)
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), default=list(WRITERS))
    parser.add_argument("--processes", type=int, default=2, help="that read documents")
    parser.add_argument("--threads", type=int, default=None, help="of torch, which reads nothing")
    parser.add_argument("--output", type=Path, default=None, help="Markdown file to write")
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    rows, results = [], {}
    for ending in arguments.formats:
        print(f"{ending}: writing", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "documents"
            folder.mkdir()
            _write(folder, ending, arguments.pages, arguments.pages_per_document)
            print(f"{ending}: reading", file=sys.stderr, flush=True)
            found = measure(folder, arguments.pages, arguments.processes)
        results[ending] = {**found, "pages": arguments.pages}
        rows.append(
            {
                "format": ending,
                "pages": f"{arguments.pages:,}",
                "documents": f"{found['documents']:,}",
                "passages": f"{found['passages']:,}",
                "pages a second": f"{arguments.pages / found['seconds']:.0f}",
                "CPU ms a page": f"{1000 * found['cpu_seconds'] / arguments.pages:.1f}",
                "seconds": f"{found['seconds']:.1f}",
                "peak memory, MB": f"{found['peak_bytes'] / 1e6:.0f}",
                "again, unchanged, seconds": f"{found['seconds_unchanged']:.1f}",
            }
        )
    publish(
        "ingest", "From documents to an index", table(rows), {"results": results}, arguments.output, where
    )


def measure(folder: Path, pages: int, processes: int) -> dict[str, Any]:
    """Seconds, processor's time and peak memory of preparing a folder, and seconds of doing it again."""
    prepared = folder.parent / "prepared"
    first = _Preparation(folder, prepared, processes)
    again = _Preparation(folder, prepared, processes, "--overwrite")
    assert not first.documents["unreadable"], first.documents["unreadable"]
    assert again.documents["unchanged"] == first.documents["read"] == first.documents["in_index"]
    index = Index(prepared / "index")
    chunks = map(index.chunk, range(len(index)))
    sections = {found for chunk in chunks for found in re.findall(r"Section \d+", chunk.passage)}
    assert sections == {_section(page) for page in range(pages)}, "a page is not in the index"
    return {
        "documents": first.documents["in_index"],
        "passages": first.documents["chunks"],
        "seconds": first.seconds,
        "cpu_seconds": first.cpu_seconds,
        "peak_bytes": first.peak_bytes,
        "seconds_unchanged": again.seconds,
    }


class _Preparation:
    """`selfaug prepare`, run to its end, and what it and the processes that it started took.

    Memory that they share is counted once, where the system tells (Linux).
    """

    def __init__(self, folder: Path, output: Path, processes: int, *flags: str) -> None:
        command = [sys.executable, "-m", "selfaug", "prepare", str(folder), "--output", str(output), "--json"]
        command += ["--set", f"documents.processes={processes}", *flags]
        self.peak_bytes = 0
        self._cpu_seconds: dict[int, float] = {}
        with tempfile.TemporaryFile("w+") as told:
            began = time.perf_counter()
            with subprocess.Popen(command, stdout=told) as running:
                while running.poll() is None:
                    self._look(psutil.Process(running.pid))
                    time.sleep(0.1)
            self.seconds = time.perf_counter() - began
            assert running.returncode == 0, f"exit code {running.returncode}"
            told.seek(0)
            self.documents: dict[str, Any] = json.load(told)["documents"]

    @property
    def cpu_seconds(self) -> float:
        """Of all processes, those that have ended included."""
        return sum(self._cpu_seconds.values())

    def _look(self, command: psutil.Process) -> None:
        processes = [command, *command.children(recursive=True)]
        self.peak_bytes = max(self.peak_bytes, sum(map(_memory, processes)))
        for process in processes:
            before = self._cpu_seconds.get(process.pid, 0.0)
            self._cpu_seconds[process.pid] = max(_cpu_seconds(process), before)


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
    text = _Text(np.random.default_rng(0))
    for number, start in enumerate(range(0, pages, per_document)):
        content = [text.page(page) for page in range(start, min(start + per_document, pages))]
        WRITERS[ending](folder / f"document{number:05d}{ending}", content)


class _Text:
    """Makes up pages."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._words, self._frequencies = made_up_words(_DIFFERENT_WORDS)

    def page(self, number: int) -> Page:
        paragraphs = [[self._sentence() for _ in range(_SENTENCES)] for _ in range(_PARAGRAPHS)]
        rows = [
            _HEADER,
            *([region, f"{number}.{row}", f"{number + 1}.{row}"] for row, region in enumerate(_REGIONS)),
        ]
        return Page(_section(number), paragraphs, rows if number % 10 == 0 else [])

    def _sentence(self) -> str:
        words = self._words[np.searchsorted(self._frequencies, self._random.random(_WORDS))].tolist()
        for place in np.flatnonzero(self._random.random(_WORDS) < _FIGURE_SHARE).tolist():
            words[place] = f"{self._random.lognormal(4, 3):.1f}"
        return " ".join(words).capitalize() + "."


def _section(page: int) -> str:
    return f"Section {page}"


def _write_pdf(file: Path, pages: Sequence[Page]) -> None:
    from reportlab.lib import colors
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

    styles = getSampleStyleSheet()
    flowables: list[Any] = []
    for page in pages:
        flowables.append(Paragraph(page.heading, styles["Heading1"]))
        flowables += [Paragraph(text, styles["BodyText"]) for text in page.texts]
        if page.rows:
            flowables.append(Table(page.rows, style=[("GRID", (0, 0), (-1, -1), 0.5, colors.black)]))
        flowables.append(PageBreak())
    SimpleDocTemplate(str(file)).build(flowables)


def _write_docx(file: Path, pages: Sequence[Page]) -> None:
    import docx

    document = docx.Document()
    for page in pages:
        document.add_heading(page.heading, 1)
        for text in page.texts:
            document.add_paragraph(text)
        if page.rows:
            table = document.add_table(len(page.rows), len(_HEADER))
            for cells, texts in zip(table.rows, page.rows, strict=True):
                for cell, text in zip(cells.cells, texts, strict=True):
                    cell.text = text
    document.save(str(file))


def _write_html(file: Path, pages: Sequence[Page]) -> None:
    parts = ["<!DOCTYPE html><html><head><title>Report</title></head><body>"]
    for page in pages:
        parts.append(f"<h1>{page.heading}</h1>")
        parts += [f"<p>{text}</p>" for text in page.texts]
        cells = ("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in page.rows)
        parts.append(f"<table>{''.join(cells)}</table>")
    file.write_text("\n".join([*parts, "</body></html>"]), encoding="utf-8")


def _write_markdown(file: Path, pages: Sequence[Page]) -> None:
    parts = []
    for page in pages:
        parts += [f"# {page.heading}", *page.texts]
        lines = [f"| {' | '.join(row)} |" for row in page.rows]
        if lines:
            parts.append("\n".join([lines[0], "|---|---|---|", *lines[1:]]))
    file.write_text("\n\n".join(parts), encoding="utf-8")


def _write_text(file: Path, pages: Sequence[Page]) -> None:
    parts = []
    for page in pages:
        parts += [page.heading, *page.texts]
        if page.rows:
            parts.append("\n".join("".join(f"{text:>12}" for text in row) for row in page.rows))
    file.write_text("\n\n".join(parts), encoding="utf-8")


def _write_xlsx(file: Path, pages: Sequence[Page]) -> None:
    import openpyxl

    workbook = openpyxl.Workbook(write_only=True)
    for page in pages:
        sheet = workbook.create_sheet(page.heading)
        sheet.append(["Item", "2023", "2024"])
        for item in page.items:
            sheet.append(item)
        if page.rows:
            sheet.append([])
            sheet.append(page.rows[0])
            for region, *figures in page.rows[1:]:
                sheet.append([region, *map(float, figures)])
    workbook.save(file)


def _write_csv(file: Path, pages: Sequence[Page]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["Section", "Item", "2023", "2024"])
        for page in pages:
            rows.writerows([page.heading, *item] for item in page.items)
            rows.writerows([page.heading, *row] for row in page.rows[1:])


WRITERS: dict[str, Callable[[Path, Sequence[Page]], None]] = {
    ".pdf": _write_pdf,
    ".docx": _write_docx,
    ".xlsx": _write_xlsx,
    ".html": _write_html,
    ".md": _write_markdown,
    ".txt": _write_text,
    ".csv": _write_csv,
}


if __name__ == "__main__":
    main()
