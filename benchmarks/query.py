"""Finding passages: time of a query, of making the index, and memory, against rank_bm25 on the same words.

    python -m benchmarks.query --output benchmarks/results/query.md

The text is made up, from a seed: words are as frequent as in real text (Zipf–Mandelbrot, the most frequent ones are
English words that aren't searched for), a document's own words come back in it, one word in twenty is a figure. A
question takes five words from the text of a passage, as frequent as they are there, and two and the year from its
heading. So its words are in many passages: real questions, which have rarer words, are answered faster.

`Index.search` finds the words of the question, the scores of all passages and of their documents' titles, the best
ten, and reads these from the disk. rank_bm25 gets the same words, for passages and for titles, with the same
parameters, and gives ten ids; its models are pickled, since they have no form on disk. Each measurement is a process
of its own. The files are dropped from the system's memory before an index is opened, where the system allows it:
opening and the first query are cold. The aim of 20 ms a query is that of a warm index, of all queries but the first.
What is mapped is the system's to take back; a process's own memory is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import psutil
import torch

from benchmarks.made_up_words import made_up_words
from benchmarks.processes import in_own_process, interleaved, prepare
from benchmarks.report import machine, median_and_range, publish, ratio_of_rounds, table
from selfaug.model.memory import peak_memory
from selfaug.retrieval import index
from selfaug.retrieval.chunking import Chunk
from selfaug.retrieval.tokens import Words

LANGUAGE = "english"
FOUND = 10
"""Passages that a query gives."""

_DIFFERENT_WORDS = 200_000
_WORDS_PER_CHUNK = 170  # some 230 tokens: passages of the default length
_CHUNKS_PER_DOCUMENT = 20
_OWN_WORDS, _OWN_SHARE = 50, 0.2
_FIGURE_SHARE = 0.05

Search = Callable[[str], list[str]]
"""Ids of the passages that are found for a question."""

Documents = Iterator[tuple[dict[str, Any], list[Chunk]]]


# ---- the text


def write_text(folder: Path, chunks: int, questions: int, seed: int) -> None:
    """Passages, a line each, and questions about some of them."""
    random = np.random.default_rng(seed)
    words, frequencies = made_up_words(_DIFFERENT_WORDS)
    asked = set(random.choice(chunks, size=questions, replace=questions > chunks).tolist())
    about: list[str] = []
    with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
        for start in range(0, chunks, _CHUNKS_PER_DOCUMENT):
            document = _document(random, words, frequencies, start, min(_CHUNKS_PER_DOCUMENT, chunks - start))
            for number, chunk in enumerate(document, start):
                file.write(json.dumps(asdict(chunk)) + "\n")
                if number in asked:
                    about.append(_question(random, chunk))
    (folder / "questions.json").write_text(json.dumps(about), encoding="utf-8")


def _document(
    random: np.random.Generator, words: np.ndarray, frequencies: np.ndarray, first: int, chunks: int
) -> list[Chunk]:
    own = words[random.integers(200, 20_000, size=_OWN_WORDS)]
    size = (chunks, _WORDS_PER_CHUNK)
    text = words[np.searchsorted(frequencies, random.random(size))].astype(object)
    repeated = random.random(size) < _OWN_SHARE
    text[repeated] = random.choice(own, size=int(repeated.sum()))
    figures = random.random(size) < _FIGURE_SHARE
    text[figures] = [f"{figure:.1f}" for figure in random.lognormal(4, 3, size=int(figures.sum()))]
    path = f"{first // _CHUNKS_PER_DOCUMENT:05d}.md"
    title = f"{own[0]} {own[1]} report {random.integers(2005, 2025)}"
    return [
        Chunk(f"{first + number:08d}", path, f"{title} > {random.choice(own)}", " ".join(line), None)
        for number, line in enumerate(text.tolist())
    ]


def _question(random: np.random.Generator, chunk: Chunk) -> str:
    inner = [word for word in chunk.text.split() if word not in bm25s.stopwords.STOPWORDS_EN]
    name, other, _, year = chunk.heading.split()[:4]
    asked = " ".join(random.choice(inner, size=5, replace=False))
    return f"What was the {asked} of {name} {other} in {year}?"


def _documents(folder: Path) -> Documents:
    with (folder / "text.jsonl").open(encoding="utf-8") as file:
        chunks = (Chunk(**json.loads(line)) for line in file)
        for path, inner in groupby(chunks, key=lambda chunk: chunk.document):
            found = list(inner)
            yield {"path": path, "digest": path, "title": found[0].heading.partition(" > ")[0]}, found


# ---- the two sides


def build_selfaug(folder: Path) -> None:
    """The index on disk."""
    with index.IndexWriter(folder / "selfaug", {"language": LANGUAGE}) as writer:
        writer.write(_documents(folder))
        writer.take_its_place()


def open_selfaug(folder: Path) -> Search:
    """selfaug's own search."""
    opened = index.Index(folder / "selfaug")
    return lambda question: [passage.id for passage in opened.search(question, FOUND)]


def build_rank_bm25(folder: Path) -> None:
    """The words that `IndexWriter` indexes, of chunks and of titles, in two models that are pickled."""
    from rank_bm25 import BM25Okapi

    words = Words(LANGUAGE)
    ids, owners, of_chunks, of_titles = [], [], [], []
    for number, (document, chunks) in enumerate(_documents(folder)):
        title = words(document["title"])
        of_titles.append(title)
        ids += [chunk.id for chunk in chunks]
        owners += [number] * len(chunks)
        of_chunks += [[*2 * title, *words(chunk.passage)] for chunk in chunks]
    models = BM25Okapi(of_chunks, b=index._CHUNK_B), BM25Okapi(of_titles, b=index._TITLE_B)
    (folder / "rank_bm25").mkdir()
    with (folder / "rank_bm25" / "models.pickle").open("wb") as file:
        pickle.dump((np.array(ids), np.array(owners), *models), file)


def open_rank_bm25(folder: Path) -> Search:
    """The same search with rank_bm25's scores; the best are found as its `get_top_n` does."""
    words = Words(LANGUAGE)
    with (folder / "rank_bm25" / "models.pickle").open("rb") as file:
        ids, owners, chunks, titles = pickle.load(file)

    def search(question: str) -> list[str]:
        found = words.of_question(question)
        scores = chunks.get_scores(found) + index._TITLE_WEIGHT * titles.get_scores(found)[owners]
        best: list[str] = ids[np.argsort(scores)[::-1][:FOUND]].tolist()
        return best

    return search


SIDES: Mapping[str, tuple[Callable[[Path], None], Callable[[Path], Search]]] = {
    "selfaug": (build_selfaug, open_selfaug),
    "rank_bm25": (build_rank_bm25, open_rank_bm25),
}


# ---- the measurements


def measure_building(side: str, folder: Path, threads: int | None) -> dict[str, Any]:
    """Seconds from the text to an index that can be opened, and the peak memory of this process beyond its start."""
    prepare(threads)
    before = peak_memory(torch.device("cpu"))
    began = time.perf_counter()
    SIDES[side][0](folder)
    seconds = time.perf_counter() - began
    files = [file for file in (folder / side).rglob("*") if file.is_file()]
    return {
        "seconds": seconds,
        "peak_bytes": peak_memory(torch.device("cpu")) - before,
        "disk_bytes": sum(file.stat().st_size for file in files),
    }


def measure_queries(side: str, folder: Path, threads: int | None) -> dict[str, Any]:
    """Seconds of opening and of each query, what was found, and the memory that it took."""
    prepare(threads)
    questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    _drop_from_memory(folder / side)
    own, mapped = _memory()
    began = time.perf_counter()
    search = SIDES[side][1](folder)
    opening = time.perf_counter() - began
    seconds, found = [], []
    for question in questions:
        began = time.perf_counter()
        found.append(search(question))
        seconds.append(time.perf_counter() - began)
    own_after, mapped_after = _memory()
    return {
        "opening": opening,
        "seconds": seconds,
        "found": found,
        "own_bytes": own_after - own,
        "mapped_bytes": mapped_after - mapped,
    }


def _memory() -> tuple[int, int]:
    """Of this process: its own, and what is mapped from files, where the system tells them apart (Linux)."""
    memory = psutil.Process().memory_info()
    mapped = getattr(memory, "shared", 0)
    return memory.rss - mapped, mapped


def _drop_from_memory(folder: Path) -> None:
    """What the system keeps of the files in memory."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of torch, which searches nothing")
    parser.add_argument("--output", type=Path, help="Markdown file to write; JSON goes beside it")
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    sides = list(arguments.sides)
    if "rank_bm25" in sides and importlib.util.find_spec("rank_bm25") is None:
        sides.remove("rank_bm25")
        print("rank_bm25 left out: `pip install rank-bm25`", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder, arguments.chunks, arguments.questions, arguments.seed)
        built = {}
        for side in sides:
            built[side] = in_own_process(measure_building, side, folder, arguments.threads)
            print(f"{side}: built in {built[side]['seconds']:.1f} s", file=sys.stderr, flush=True)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _, side in interleaved(sides, arguments.rounds):
            run = in_own_process(measure_queries, side, folder, arguments.threads)
            runs[side].append(run)
            median = 1000 * statistics.median(run["seconds"][1:])
            print(f"{side}: {median:.2f} ms a query", file=sys.stderr, flush=True)
    rows = [_row(side, built[side], runs) for side in sides]
    same = _overlap(*(runs[side][0]["found"] for side in sides)) if len(sides) == 2 else None
    data = {
        "arguments": {key: value for key, value in vars(arguments).items() if key != "output"},
        "building": built,
        "queries": {side: [_without_found(run) for run in found] for side, found in runs.items()},
        "same": same,
    }
    publish("query", "Finding passages", _text(arguments, rows, same), data, arguments.output, where)


def _row(side: str, built: Mapping[str, Any], runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    found = runs[side]
    medians = {name: [statistics.median(run["seconds"][1:]) for run in inner] for name, inner in runs.items()}
    every = [1000 * second for run in found for second in run["seconds"][1:]]
    return {
        "": side,
        "median query, ms": median_and_range([1000 * second for second in medians[side]], 2),
        "99 % of queries, ms": f"{np.quantile(every, 0.99):.2f}",
        "× selfaug": ratio_of_rounds(medians[side], medians.get("selfaug")),
        "first query, ms": median_and_range([1000 * run["seconds"][0] for run in found], 1),
        "opening, s": median_and_range([run["opening"] for run in found], 2),
        "its own memory, MB": f"{statistics.median(run['own_bytes'] for run in found) / 1e6:.0f}",
        "mapped, MB": f"{statistics.median(run['mapped_bytes'] for run in found) / 1e6:.0f}",
        "building, s": f"{built['seconds']:.1f}",
        "peak memory of building, MB": f"{built['peak_bytes'] / 1e6:.0f}",
        "on disk, MB": f"{built['disk_bytes'] / 1e6:.1f}",
    }


def _overlap(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> dict[str, float]:
    """Shares of questions for which both find the same: the best passage, and of the best ten."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "best": statistics.mean(our[0] == their[0] for our, their in pairs),
        "top": statistics.mean(len({*our} & {*their}) / len(their) for our, their in pairs),
    }


def _without_found(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key != "found"}


def _text(
    arguments: argparse.Namespace, rows: Sequence[Mapping[str, Any]], same: dict[str, float] | None
) -> str:
    parts = [
        f"{arguments.chunks:,} passages of {_WORDS_PER_CHUNK} words and a heading, {arguments.questions:,} questions, "
        f"{FOUND} passages each, {arguments.rounds} rounds: median (lowest–highest). bm25s {version('bm25s')}.",
        table(rows),
    ]
    if same is not None:
        parts.append(
            f"rank_bm25 {version('rank-bm25')} gives the same words: of ten passages {100 * same['top']:.1f} % are the "
            f"same, and for {100 * same['best']:.1f} % of the questions the best one is. It weighs words that are in "
            "many passages otherwise (Okapi's idf, ours is Lucene's), and ties in another order."
        )
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
