"""The reference cache: resumed after a kill, shared by processes, refused when it does not fit."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from build_cache import documents
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model

from selfaug.core.positions import find_positions
from selfaug.errors import CacheError, StorageError
from selfaug.file_lock import FileLock
from selfaug.model.cache import Document, ReferenceCache, _checksum, _segment_name
from selfaug.model.disk_room import has_room
from selfaug.model.fingerprint import fingerprint
from tiny_models import build, make_docs, packed, padded

BUILDER = Path(__file__).with_name("build_cache.py")
COUNT = 150


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(BUILDER), str(folder), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[tuple[int, int]]:
    """Of each build: tokens that were run through the model, and documents that were there in the end."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = re.findall(r"^tokens (\d+) documents (\d+)$", out, re.MULTILINE)
    return [(int(tokens), int(documents)) for tokens, documents in found]


def content(folder: Path) -> dict[str, bytes]:
    """All that lasts in a cache's folder."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.endswith(".lock")}


@pytest.fixture(scope="module")
def model():
    return build("llama-tied")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model) -> dict[str, bytes]:
    """An uninterrupted build of the builder's documents."""
    folder = tmp_path_factory.mktemp("whole") / "cache"
    cache = ReferenceCache.open(folder, model)
    cache.build(model, documents(COUNT), batch_tokens=64)
    assert cache.verify() == COUNT
    return content(folder)


class Tokens:
    """Counts the real tokens that run through a model."""

    def __init__(self, model) -> None:
        self.count = 0
        self.model = model

    def __enter__(self) -> Tokens:
        def add(_module, _args, inputs) -> None:
            self.count += int(inputs["attention_mask"].sum())

        self.handle = self.model.register_forward_pre_hook(add, with_kwargs=True)
        return self

    def __exit__(self, *_) -> None:
        self.handle.remove()


# -- building ------------------------------------------------------------------------------------------------------


def test_a_build_that_was_killed_goes_on_with_the_same_bytes(tmp_path, model, whole):
    folder = tmp_path / "cache"
    process = start(folder, COUNT)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("progress") and int(line.split()[1]) > COUNT // 3:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    done = np.fromfile(next(folder.glob("segment-*.done.bin")), np.uint32)
    assert COUNT // 3 < (done != 0).sum() < COUNT
    assert not list(folder.glob("segment-*.json"))
    cache = ReferenceCache.open(folder, model)
    assert len(cache) == 0
    todo = documents(COUNT)
    left = sum(len(d.input_ids) for d, c in zip(todo, done, strict=True) if c == 0)
    with Tokens(model) as ran:
        cache.build(model, todo, batch_tokens=64)
    assert ran.count == left  # nothing that was done is computed again
    assert cache.verify() == COUNT
    assert content(folder) == whole


def test_what_reached_the_disk_only_in_part_is_computed_again(tmp_path, model, whole):
    """Power cut: the checksum is there, the hidden states are not."""
    folder = tmp_path / "cache"
    ReferenceCache.open(folder, model)
    for name, data in whole.items():
        if name.endswith(".bin"):
            (folder / name).write_bytes(data)
    data = next(path for path in folder.glob("segment-*.bin") if ".done" not in path.name)
    with open(data, "r+b") as file:
        file.seek(1000)
        file.write(bytes(64))
    with Tokens(model) as ran:
        ReferenceCache.open(folder, model).build(model, documents(COUNT), batch_tokens=64)
    assert 0 < ran.count <= 64
    assert content(folder) == whole


def test_an_interrupted_build_regroups_nothing(tmp_path, model, whole):
    """One missing document is computed in the batch that it was in: another one would round differently."""
    folder = tmp_path / "cache"
    ReferenceCache.open(folder, model)
    for name, data in whole.items():
        if name.endswith(".bin"):
            (folder / name).write_bytes(data)
    done_file = next(folder.glob("segment-*.done.bin"))
    done = np.fromfile(done_file, np.uint32)
    done[[3, 77, 140]] = 0
    done.tofile(done_file)
    ReferenceCache.open(folder, model).build(model, documents(COUNT), batch_tokens=64)
    assert content(folder) == whole


def test_a_second_build_costs_nothing_and_new_documents_add_a_segment(tmp_path, model):
    docs = documents(30)
    cache = ReferenceCache.open(tmp_path, model)
    added = cache.build(model, docs[:20])
    assert added == cache.size_of(docs[:20]) == sum(d.rows for d in docs[:20]) * 32 * 4
    before = content(tmp_path)
    with Tokens(model) as ran:
        assert cache.build(model, docs[:20]) == 0
        assert ReferenceCache.open(tmp_path, model).build(model, reversed(docs[:20])) == 0
    assert ran.count == 0
    assert content(tmp_path) == before
    with Tokens(model) as ran:
        assert cache.build(model, docs) == cache.size_of(docs[20:])
    assert ran.count == sum(len(d.input_ids) for d in docs[20:])
    assert {name: data for name, data in content(tmp_path).items() if name in before} == before
    again = ReferenceCache.open(tmp_path, model)
    assert len(again) == again.verify() == 30
    assert all(d in again for d in docs)
    assert again.missing(documents(31)) == documents(31)[30:]


def cut_off(folder: Path, model, docs: list[Document], after: int = 0) -> ReferenceCache:
    """A build that ends after so many documents, or as soon as it has some."""

    def stop(done: int, total: int) -> None:
        if done >= after:
            raise StopAsyncIteration

    cache = ReferenceCache.open(folder, model)
    with pytest.raises(StopAsyncIteration):
        cache.build(model, docs, batch_tokens=64, on_progress=stop)
    return cache


def names(folder: Path) -> set[str]:
    """Of the segments that have data."""
    return {path.name.partition(".")[0] for path in folder.glob("segment-*.bin")}


def finished(folder: Path) -> NDArray[np.bool_]:
    """Which documents of the only segment are done."""
    return np.fromfile(next(folder.glob("segment-*.done.bin")), np.uint32) != 0


def test_what_a_cut_off_build_has_finished_is_kept_by_a_build_of_other_rows(tmp_path, model):
    docs = documents(100)
    cut_off(tmp_path, model, docs[:80], after=40)
    done = finished(tmp_path)
    (left,) = names(tmp_path)
    other = ReferenceCache.open(tmp_path, model)
    with Tokens(model) as ran:
        assert other.build(model, docs[1:], batch_tokens=64) == other.size_of(
            [doc for i, doc in enumerate(docs[1:], 1) if i >= 80 or not done[i]]
        )
    assert ran.count == sum(len(doc.input_ids) for i, doc in enumerate(docs[1:], 1) if i >= 80 or not done[i])
    assert left not in names(tmp_path)  # what it had reserved is free
    assert len(names(tmp_path)) == 2
    again = ReferenceCache.open(tmp_path, model)
    assert again.verify() == 99 + done[0]
    assert sum(
        path.stat().st_size for path in tmp_path.glob("segment-????????????????.bin")
    ) == again.size_of(docs if done[0] else docs[1:])
    # The one that was cut off goes on with what is left of its own.
    with Tokens(model) as ran:
        again.build(model, docs[:80], batch_tokens=64)
    assert ran.count == (0 if done[0] else len(docs[0].input_ids))
    kept = int(np.flatnonzero(done)[1])
    ids, labels = (torch.tensor([values]) for values in (docs[kept].input_ids, docs[kept].labels))
    batch, positions = {"input_ids": ids, "labels": labels}, find_positions(ids, labels)
    alone = ReferenceCache.open(tmp_path / "alone", model)
    alone.build(model, [docs[kept]])
    torch.testing.assert_close(
        again.batch(batch, positions), alone.batch(batch, positions), rtol=1e-4, atol=1e-4
    )


def test_two_cut_off_builds_that_share_rows_are_both_kept(tmp_path, model):
    docs = documents(100)
    cut_off(tmp_path, model, docs[:60], after=15)
    (first,) = names(tmp_path)
    done = finished(tmp_path)
    aside = tmp_path / "aside"
    aside.mkdir()
    for path in tmp_path.glob("segment-*"):
        path.rename(aside / path.name)
    cut_off(tmp_path, model, docs[:1:-1], after=75)
    also = finished(tmp_path)[::-1]
    for path in aside.iterdir():
        path.rename(tmp_path / path.name)
    aside.rmdir()
    cache = ReferenceCache.open(tmp_path, model)
    left = [doc for i, doc in enumerate(docs[:60]) if not done[i] and not (i > 1 and also[i - 2])]
    assert len(left) < 60 - done.sum()
    with Tokens(model) as ran:
        assert cache.build(model, docs[:60], batch_tokens=64) == cache.size_of(left)
    assert ran.count == sum(len(doc.input_ids) for doc in left)
    assert first not in names(tmp_path)
    assert cache.verify() == len(cache) == 60 + also[58:].sum()


def test_of_a_cut_off_build_only_what_its_checksums_vouch_for_is_kept(tmp_path, model):
    docs = documents(60)
    cut_off(tmp_path, model, docs[:50], after=25)
    done = finished(tmp_path)
    data = next(path for path in tmp_path.glob("segment-*.bin") if ".done" not in path.name)
    first = np.cumsum([0, *(doc.rows for doc in docs[:50])])
    damaged = int(np.flatnonzero(done)[3])
    with open(data, "r+b") as file:
        file.seek(int(first[damaged]) * 32 * 4)
        file.write(bytes(32))
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, docs[50:])
    assert len(cache) == cache.verify() == done.sum() - 1 + 10
    assert docs[damaged] not in cache


@pytest.mark.parametrize("lost", [".index.npz", ".done.bin"])
def test_a_cut_off_build_that_can_not_be_read_is_deleted(tmp_path, model, lost):
    cut_off(tmp_path, model, documents(50))
    next(tmp_path.glob(f"segment-*{lost}")).unlink()
    (left,) = names(tmp_path)
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, documents(60)[50:])
    assert cache.verify() == 10
    assert len(names(tmp_path)) == 1
    assert left not in names(tmp_path)


def test_a_cut_off_build_that_lacks_its_description_alone_is_completed(tmp_path, model, whole):
    ReferenceCache.open(tmp_path, model)
    for name, data in whole.items():
        if name == "cache.json" or not name.endswith(".json"):
            (tmp_path / name).write_bytes(data)
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, documents(COUNT + 3)[COUNT:])
    assert len(cache) == cache.verify() == COUNT + 3
    assert {name: data for name, data in content(tmp_path).items() if name in whole} == whole


def test_a_build_of_other_rows_leaves_one_that_is_at_work_alone(tmp_path, model):
    docs, begun, go_on = documents(100), threading.Event(), threading.Event()

    def wait(done: int, total: int) -> None:
        begun.set()
        assert go_on.wait(60)

    def fill() -> int:
        cache = ReferenceCache.open(tmp_path, model)
        cache.build(model, docs[:80], batch_tokens=64, on_progress=wait)
        return cache.verify()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fill)
        assert begun.wait(60)
        (working,) = names(tmp_path)
        other = ReferenceCache.open(tmp_path, model)
        try:
            other.build(model, docs[80:])
        finally:
            go_on.set()
        assert len(other) == 20
        assert working in names(tmp_path)
        assert running.result(60) == 100
    assert ReferenceCache.open(tmp_path, model).verify() == 100


def test_documents_that_occur_twice_are_kept_once(tmp_path, model):
    docs = documents(5)
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, docs * 3)
    assert len(cache) == 5
    assert cache.size_of(docs) == sum(p.stat().st_size for p in tmp_path.glob("segment-????????????????.bin"))


def test_the_label_of_the_first_token_makes_no_difference(tmp_path, model):
    """Nothing predicts it, and trl's padding-free collator takes it away."""
    (doc,) = make_docs((0, 4))
    cache = ReferenceCache.open(tmp_path, model)
    assert cache.build(model, [Document(doc.ids, doc.labels)]) == cache.row_bytes  # its boundary
    assert Document(doc.ids, [-100, *doc.labels[1:]]) in cache
    for batch in (padded([doc]), packed([doc]), padded([doc._replace(prompt=1)])):
        assert cache.batch(batch, find_positions(batch["input_ids"], batch["labels"])).shape == (1, 32)


def test_batches_stay_within_their_tokens(tmp_path, model):
    shapes = []
    handle = model.register_forward_pre_hook(
        lambda _m, _a, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    ReferenceCache.open(tmp_path, model).build(model, documents(60), batch_tokens=100)
    handle.remove()
    assert all(rows * width <= 100 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) > 4
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)


def test_progress_ends_at_the_number_of_documents(tmp_path, model):
    seen: list[tuple[int, int]] = []
    ReferenceCache.open(tmp_path, model).build(
        model, documents(40), batch_tokens=64, on_progress=lambda done, todo: seen.append((done, todo))
    )
    assert seen == sorted(seen)
    assert seen[-1] == (40, 40)
    assert len(seen) > 5


def test_two_processes_share_the_work_as_ranks_and_do_it_once_otherwise(tmp_path, whole):
    """First as the two ranks of one run, then as two runs that happen to build the same documents."""
    shared, raced = tmp_path / "shared", tmp_path / "raced"
    processes = [start(shared, COUNT, raced, rank) for rank in range(2)]
    found = [finish(process) for process in processes]
    assert [documents for run in found for _, documents in run] == [COUNT] * 4
    total = sum(len(d.input_ids) for d in documents(COUNT))
    (one, alone), (two, beside) = ([tokens for tokens, _ in run] for run in found)
    assert total <= one + two < total + 128  # the last batch may be done twice
    assert abs(one - two) < 0.1 * total
    assert sorted([alone, beside]) == [0, total]
    assert content(shared) == content(raced) == whole


def test_a_build_that_waits_for_another_says_so(tmp_path, model, caplog, monkeypatch):
    cache = ReferenceCache.open(tmp_path / "cache", model)
    docs = documents(3)
    begun, said = threading.Event(), threading.Event()

    def other_run() -> None:
        with FileLock(cache.folder / f"{_segment_name(document.key for document in docs)}.lock"):
            begun.set()
            said.wait(30)

    emit = caplog.handler.emit

    def emit_and_tell(record: logging.LogRecord) -> None:
        emit(record)
        if "another run computes" in record.getMessage():
            said.set()

    monkeypatch.setattr(caplog.handler, "emit", emit_and_tell)
    threading.Thread(target=other_run).start()
    begun.wait()
    assert cache.build(model, docs) > 0
    assert f"another run computes these rows for the reference cache in {cache.folder}" in caplog.text


def as_two_ranks(
    folder: Path, docs: list[Document], heard: Callable[[object], None] = lambda _: None
) -> ReferenceCache:
    """Build in two threads as the two ranks of one run; `heard` is called with what the first gives both."""
    meeting, models, given = threading.Barrier(2), [build("llama-tied") for _ in range(2)], [None]

    def barrier() -> None:
        meeting.wait(10)

    def fill(rank: int) -> None:
        def from_first(value):
            if rank == 0:
                heard(value)
                given[0] = value
            barrier()
            found = given[0]
            barrier()
            return found

        ReferenceCache.open(folder, models[rank]).build(
            models[rank],
            docs,
            batch_tokens=64,
            rank=rank,
            processes=2,
            barrier=barrier,
            from_first=from_first,
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fill, range(2)))
    return ReferenceCache.open(folder, models[0])


def test_ranks_hear_that_the_first_one_copies_or_waits(tmp_path, model, monkeypatch):
    """They would give up after half an hour in one call."""
    monkeypatch.setattr("selfaug.model.cache._TURN", 0)
    docs = documents(60)
    cut_off(tmp_path, model, docs[:50], after=25)
    copied, synced = int(finished(tmp_path).sum()), []
    monkeypatch.setattr("selfaug.model.cache._PIECE", 1)
    monkeypatch.setattr("selfaug.model.cache._sync", lambda file: synced.append(Path(file.name).suffixes))
    waiting, told = threading.Event(), 0

    def heard(value: object) -> None:
        nonlocal told
        told += value is True
        if told == 50 + copied + 3:  # each document looked at, those copied, and some for the lock
            waiting.set()

    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / f"{_segment_name(document.key for document in docs[50:])}.lock"):
            building = pool.submit(as_two_ranks, tmp_path, docs[50:], heard)
            assert waiting.wait(10)
        assert building.result(30).verify() == copied + 10
    assert synced.count([".bin"]) == copied + 1  # nor does one piece take longer than a turn


def test_ranks_share_the_check_of_what_is_finished(tmp_path, model, whole, monkeypatch):
    ReferenceCache.open(tmp_path, model)
    for name, data in whole.items():
        if name.endswith(".bin"):
            (tmp_path / name).write_bytes(data)
    data = next(path for path in tmp_path.glob("segment-*.bin") if ".done" not in path.name)
    rows = np.cumsum([0, *(doc.rows for doc in documents(COUNT))])
    with open(data, "r+b") as file:
        for damaged in (20, 21):  # one of each rank's
            file.seek(int(rows[damaged]) * 32 * 4)
            file.write(bytes(64))
    checked = []

    def count(states: NDArray[np.uint8]) -> int:
        checked.append(len(states))
        return _checksum(states)

    monkeypatch.setattr("selfaug.model.cache._checksum", count)
    as_two_ranks(tmp_path, documents(COUNT))
    assert COUNT < len(checked) < 1.5 * COUNT  # those of the two batches that are computed anew, too
    assert content(tmp_path) == whole


def test_a_rank_that_is_late_to_look_shares_the_work_all_the_same(tmp_path):
    meeting = threading.Barrier(2)
    docs, models = documents(COUNT), [build("llama-tied") for _ in range(2)]

    def fill(rank: int) -> None:
        def barrier() -> None:
            meeting.wait(30)
            if rank == 1:
                time.sleep(0.2)  # the other one has begun to compute by then

        ReferenceCache.open(tmp_path, models[rank]).build(
            models[rank], docs, batch_tokens=64, rank=rank, processes=2, barrier=barrier
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fill, range(2)))
    assert len(ReferenceCache.open(tmp_path, models[0])) == COUNT


def test_ranks_that_opened_the_folder_with_more_or_less_in_it_end_together(tmp_path, model):
    docs, meeting = documents(10), threading.Barrier(2)
    early = ReferenceCache.open(tmp_path, model)
    ReferenceCache.open(tmp_path, model).build(model, docs)
    caches = [ReferenceCache.open(tmp_path, model), early]

    def fill(rank: int) -> int:
        def barrier() -> None:
            meeting.wait(5)

        return caches[rank].build(model, docs, rank=rank, processes=2, barrier=barrier)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fill, range(2))) == [0, 0]
    assert all(doc in early for doc in docs)


def test_ranks_agree_on_what_is_missing_where_another_run_finishes_some_between_their_looks(tmp_path, model):
    docs, meeting = documents(10), threading.Barrier(2)
    looked, given = threading.Event(), []
    models = [build("llama-tied") for _ in range(3)]
    caches = [ReferenceCache.open(tmp_path, one) for one in models]

    def fill(rank: int) -> int:
        visits = 0

        def barrier() -> None:
            nonlocal visits
            visits += 1
            meeting.wait(30)
            if (
                rank == 1 and visits == 2
            ):  # the second, before which the first one has closed what was cut off
                looked.wait(30)
                caches[2].build(models[2], docs[:5])

        def from_first(value):
            if rank == 0:
                given.append(value)
                if isinstance(value, list):
                    looked.set()
            meeting.wait(30)
            found = given[-1]
            meeting.wait(30)
            return found

        return caches[rank].build(
            models[rank],
            docs,
            batch_tokens=64,
            rank=rank,
            processes=2,
            barrier=barrier,
            from_first=from_first,
        )

    with ThreadPoolExecutor(2) as pool:
        added = list(pool.map(fill, range(2)))
    assert added == [caches[0].size_of(docs)] * 2
    assert ReferenceCache.open(tmp_path, model).verify() == 10


# -- refusing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: build("llama-tied", seed=1), "weights"),
        (lambda: build("llama-tied", dtype=torch.bfloat16), "dtype"),
        (lambda: build("llama-untied"), "weights"),
        (lambda: build("qwen2"), "class"),
        (lambda: build("llama-tied", _attn_implementation="eager"), "attention"),
        (
            lambda: build("llama-tied", rope_parameters={"rope_theta": 500.0, "rope_type": "default"}),
            "config",
        ),
    ],
    ids=["weights", "dtype", "head", "class", "attention", "rope"],
)
def test_a_cache_of_another_model_is_refused(tmp_path, model, other, named):
    ReferenceCache.open(tmp_path, model).build(model, documents(3))
    before = content(tmp_path)
    with pytest.raises(CacheError, match="belongs to another reference model") as error:
        ReferenceCache.open(tmp_path, other())
    assert any(problem.startswith(named) for problem in error.value.problems), error.value.problems
    assert "reference_cache_dir" in error.value.hint
    assert content(tmp_path) == before


def test_another_compute_dtype_is_refused(tmp_path, model):
    ReferenceCache.open(tmp_path, model)
    with pytest.raises(CacheError, match="another reference model"):
        ReferenceCache.open(tmp_path, model, compute_dtype=torch.bfloat16)


def flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


DAMAGE = {
    "flipped": flip,
    "cut": lambda data: data[:-3],
    "longer": lambda data: data + b"\0",
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", [".index.npz", ".json", ".done.bin", ".bin", "cache.json"])
def test_a_damaged_cache_is_refused(tmp_path, model, whole, file, damage):
    """At the latest when it is read; never used."""
    for name, data in whole.items():
        here = name == file or (name.startswith("segment") and name.partition(".")[2] == file[1:])
        (tmp_path / name).write_bytes(DAMAGE[damage](data) if here else data)
    if damage == "longer" and file.endswith("json"):
        (path,) = [
            p for p in tmp_path.iterdir() if p.name == file or (p.name.endswith(file) and "segment" in p.name)
        ]
        path.write_bytes(path.read_bytes()[:-1] + b"}")
    with pytest.raises(CacheError) as error:  # noqa: PT012
        cache = ReferenceCache.open(tmp_path, model)
        cache.verify()
        # A flipped bit in a number of the segment's description shows as another size or digest.
        assert len(cache) == COUNT
        raise AssertionError("not refused")
    assert "delete" in error.value.hint


@pytest.mark.parametrize("missing", [".index.npz", ".done.bin", ".bin"])
def test_a_cache_that_lacks_a_file_is_refused(tmp_path, model, whole, missing):
    for name, data in whole.items():
        if name.partition(".")[2] != missing[1:]:
            (tmp_path / name).write_bytes(data)
    with pytest.raises(CacheError, match="damaged"):
        ReferenceCache.open(tmp_path, model)


def test_a_damaged_document_is_refused_when_a_batch_asks_for_it(tmp_path, model):
    docs = make_docs((9, 2), (7, 2))
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, [Document(d.ids, d.labels) for d in docs])
    data = next(p for p in tmp_path.glob("segment-*.bin") if ".done" not in p.name)
    data.write_bytes(flip(data.read_bytes()[:128]) + data.read_bytes()[128:])
    cache = ReferenceCache.open(tmp_path, model)
    batches = [
        (batch, find_positions(batch["input_ids"], batch["labels"])) for batch in (padded([d]) for d in docs)
    ]
    with pytest.raises(CacheError, match="checksum"):
        cache.batch(*batches[0])
    assert cache.batch(*batches[1]).shape == (7, 32)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path, model):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CacheError, match="not a reference cache"):
        ReferenceCache.open(tmp_path, model)
    assert [p.name for p in tmp_path.iterdir() if p.name != ".lock"] == ["thesis.txt"]


# -- disk ----------------------------------------------------------------------------------------------------------


@contextmanager
def mounted(*options: str) -> Iterator[Path]:
    """A file system in memory, outside of what pytest cleans up."""
    folder = Path(tempfile.mkdtemp(prefix="selfaug-small-disk-"))
    done = subprocess.run(["mount", *options, "none", str(folder)], capture_output=True, check=False)
    if done.returncode:
        folder.rmdir()
        pytest.skip("can't mount a disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # memory maps are still open
        folder.rmdir()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 256 kB."""
    with mounted("-t", "tmpfs", "-o", "size=256k") as folder:
        yield folder


def test_where_no_space_can_be_reserved_nothing_is_written_for_it(tmp_path, model, monkeypatch):
    """As on NFS before 4.2, where a byte in each block would take hours."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("selfaug.model.disk_room.shutil.disk_usage", lambda _: usage)  # ramfs says nothing
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: pytest.fail("writes into every block"))
    with mounted("-t", "ramfs") as folder:
        cache = ReferenceCache.open(folder, model)
        cache.build(model, documents(20))
        assert cache.verify() == 20


def test_a_cut_off_build_stays_where_the_disk_is_full_before_all_of_it_is_copied(
    small_disk, model, monkeypatch
):
    """As with a quota, of which `disk_usage` says nothing, where no space can be reserved."""
    usage, docs = shutil.disk_usage(small_disk)._replace(free=10**9), documents(130)
    monkeypatch.setattr("selfaug.model.disk_room.shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("selfaug.model.disk_room.take_space", lambda *_: False)
    cut_off(small_disk, model, docs[:120], after=100)
    before = content(small_disk)
    cache = ReferenceCache.open(small_disk, model)
    cache.build(model, docs[120:])
    assert cache.verify() == 10
    assert before.items() <= content(small_disk).items()
    assert len(names(small_disk)) == 2


def test_room_that_could_not_be_reserved_is_not_there_yet(tmp_path, model, monkeypatch):
    cache = cut_off(tmp_path, model, documents(60))
    data = next(path for path in tmp_path.glob("segment-*.bin") if ".done" not in path.name)
    size = data.stat().st_size
    assert cache.unfinished_bytes(documents(60)) == size
    os.truncate(data, 0)
    os.truncate(data, size)
    assert cache.unfinished_bytes(documents(60)) == 0
    usage = shutil.disk_usage(tmp_path)._replace(free=size - 1)
    monkeypatch.setattr("selfaug.model.disk_room.shutil.disk_usage", lambda _: usage)
    with Tokens(model) as ran, pytest.raises(StorageError, match="the reference cache needs"):
        cache.build(model, documents(60))
    assert ran.count == 0


def test_a_disk_that_is_too_small_is_refused_before_anything_is_computed(small_disk, model):
    cache = ReferenceCache.open(small_disk, model)
    with Tokens(model) as ran, pytest.raises(StorageError) as error:
        cache.build(model, documents(400))
    assert ran.count == 0
    assert re.search(r"needs 0\.6 MB in .*, 0\.[123] MB free", str(error.value))
    assert "reference_cache_dir" in error.value.hint
    assert not list(small_disk.glob("segment-*.bin"))
    cache.build(model, documents(60))  # what fits, fits
    assert cache.verify() == 60


def test_room_is_asked_for_what_is_missing_and_has_not_been_reserved(tmp_path, model, monkeypatch):
    cache = ReferenceCache.open(tmp_path, model)
    rows = documents(60)
    tokens = sum(len(row.input_ids) for row in rows)
    size = cache.size_of(rows)
    assert size < tokens * cache.row_bytes

    def free(size: int) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=size)
        monkeypatch.setattr("selfaug.model.disk_room.shutil.disk_usage", lambda _: usage)

    free(size - 1)
    with pytest.raises(StorageError, match="the reference cache needs"):
        cache.require_room(iter(rows), tokens)
    free(size)
    cache.require_room(iter(rows), tokens)
    with pytest.raises(StopAsyncIteration):
        cache.build(model, rows, on_progress=_stop)
    free(0)  # taken by the build that was cut off
    cache.require_room(iter(rows), tokens)
    cache.build(model, rows)
    cache.require_room(iter(rows), tokens)
    with pytest.raises(StorageError):
        cache.require_room(documents(61), tokens)


def test_room_of_a_cut_off_build_of_other_rows_does_not_count_and_is_freed(tmp_path, model, monkeypatch):
    """Each byte that the cache's files take is one that this disk lacks."""
    docs = documents(120)
    tokens = sum(len(doc.input_ids) for doc in docs)
    cache = cut_off(tmp_path, model, docs[:80])
    kept = cache.size_of(docs[:80]) * finished(tmp_path).sum() // 80
    total, usage = cache.size_of(docs) + 3 * kept, shutil.disk_usage(tmp_path)

    def used(_: Path) -> object:
        taken = sum(
            path.stat().st_size for path in tmp_path.glob("segment-*.bin") if ".done" not in path.name
        )
        return usage._replace(free=max(0, total - taken))

    assert cache.unfinished_bytes(docs[:80]) == cache.size_of(docs[:80])
    assert cache.unfinished_bytes(docs[:70]) == cache.size_of(docs[:80])  # as without the anchors
    assert cache.unfinished_bytes(docs[1:]) == 0
    monkeypatch.setattr("selfaug.model.disk_room.shutil.disk_usage", used)
    assert used(tmp_path).free < cache.size_of(docs[40:])
    cache.require_room(docs[40:], tokens)
    monkeypatch.undo()
    assert 0 < len(cache) < 80
    assert cache.unfinished_bytes(docs[:80]) == 0


def test_a_cut_off_build_stays_where_the_disk_has_no_room_to_keep_it(tmp_path, model, monkeypatch):
    docs = documents(90)
    tokens = sum(len(doc.input_ids) for doc in docs)
    cache = cut_off(tmp_path, model, docs[:80])
    before, usage = content(tmp_path), shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr("selfaug.model.disk_room.shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="the reference cache needs"):
        cache.require_room(docs[80:], tokens)
    assert content(tmp_path) == before
    cache.build(model, docs[:80], batch_tokens=64)
    assert cache.verify() == 80


def _stop(done: int, total: int) -> None:
    raise StopAsyncIteration


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size`: what a quota does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_quota_is_refused_before_anything_is_computed(tmp_path, model):
    """The disk reports enough free space, but the space can't be had."""
    cache = ReferenceCache.open(tmp_path, model)
    with file_size_limit(100_000), Tokens(model) as ran, pytest.raises(StorageError) as error:
        cache.build(model, documents(400))
    # It says which of them it is: so much is free.
    assert re.search(
        r"needs 0\.6 MB in .*: the disk is full or a quota is reached \(.* free\)", str(error.value)
    )
    assert "reference_cache_dir" in error.value.hint
    assert ran.count == 0
    assert not list(tmp_path.glob("segment-*.bin"))


def test_a_failure_to_reserve_that_is_no_want_of_room_is_told_as_it_is(tmp_path, model):
    cache = cut_off(tmp_path, model, documents(5))
    data = next(path for path in tmp_path.glob("segment-*.bin") if ".done" not in path.name)
    data.unlink()
    data.symlink_to(tmp_path / "nowhere" / "data.bin")
    with pytest.raises(StorageError, match=r"can't write the reference cache .*: No such file"):
        cache.build(model, documents(5))


def test_a_first_open_that_failed_or_was_killed_leaves_a_folder_that_can_be_opened(tmp_path, model):
    with file_size_limit(20), pytest.raises(StorageError, match="can't write"):
        ReferenceCache.open(tmp_path, model)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == []
    (tmp_path / ".cache.json.4711").write_text("{", encoding="utf-8")  # of one that was killed as it wrote
    ReferenceCache.open(tmp_path, model).build(model, documents(3))
    assert ReferenceCache.open(tmp_path, model).verify() == 3


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's power to write anywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_can_not_be_written_is_refused(tmp_path, model):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with nobody(), pytest.raises(StorageError, match="can't write") as error:
        ReferenceCache.open(closed / "cache", model)
    assert "reference_cache_dir" in error.value.hint
    # reference="auto" goes by this: below a folder of others that may not be entered, too.
    with nobody():
        assert not has_room(1, closed / "cache" / "within")
    assert has_room(1, closed.parent / "cache" / "within")
    assert list(closed.iterdir()) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["closed"]
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can't write"):
        ReferenceCache.open(tmp_path / "file", model)


def test_a_folder_that_has_become_read_only_is_refused_at_build(tmp_path, model):
    folder = tmp_path / "cache"
    cache = ReferenceCache.open(folder, model)
    for entry in (*tmp_path.parents[:2], tmp_path):  # pytest's folders are for their owner only
        entry.chmod(0o755)
    folder.chmod(0o555)
    with nobody(), Tokens(model) as ran, pytest.raises(StorageError, match="can't write") as error:
        cache.build(model, documents(5))
    assert "reference_cache_dir" in error.value.hint
    assert ran.count == 0
    assert not list(folder.glob("segment-*"))


# -- fingerprint ---------------------------------------------------------------------------------------------------


def test_the_fingerprint_sees_every_weight():
    model = build("phi-bias")
    seen = {json.dumps(fingerprint(model))}
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.view(-1)[-1] += 1.0
        seen.add(json.dumps(fingerprint(model)))
    assert len(seen) == len(list(model.parameters())) + 1


def test_the_fingerprint_is_of_the_base_model_whatever_the_adapter_does():
    for name in ("llama-tied", "phi-bias"):
        model = build(name)
        want = fingerprint(model)
        config = LoraConfig(
            target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"] if name == "phi-bias" else None
        )
        adapted = get_peft_model(model, config).train()
        assert fingerprint(adapted) == want
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(1.0)
        adapted.config.use_cache = False
        adapted.config.pad_token_id = 5  # trl aligns special tokens with the tokeniser's
        adapted.config.eos_token_id = 7
        adapted.add_adapter(
            "second", LoraConfig(target_modules=["o_proj" if name == "llama-tied" else "dense"])
        )
        assert fingerprint(adapted) == want
        assert fingerprint(build(name)) == want


def test_a_cache_without_a_folder_goes_to_the_users_cache(tmp_path, model, monkeypatch):
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path))
    one = ReferenceCache.open(None, model)
    two = ReferenceCache.open(None, build("llama-tied", seed=1))
    assert one.folder.parent == two.folder.parent == tmp_path / "reference"
    assert one.folder != two.folder
    assert ReferenceCache.open(None, build("llama-tied")).folder == one.folder
