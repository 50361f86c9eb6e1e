"""The reference cache: resumed after a kill, shared by processes, refused when it does not fit."""

from __future__ import annotations

import itertools
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

import pytest
import torch
from build_cache import documents
from peft import LoraConfig, get_peft_model

from selfaug.core.positions import find_positions
from selfaug.errors import CacheError, StorageError
from selfaug.file_lock import FileLock
from selfaug.model.cache import Document, ReferenceCache, _name, _write_whole
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


def states(cache: ReferenceCache) -> dict[bytes, bytes]:
    """The hidden states of each document, by its key."""
    assert cache.verify() == len(cache)
    return {key: cache._read(key).tobytes() for key in cache._where}


@pytest.fixture(scope="module")
def model():
    return build("llama-tied")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model) -> ReferenceCache:
    """An uninterrupted build of the builder's documents."""
    cache = ReferenceCache.open(tmp_path_factory.mktemp("whole") / "cache", model)
    cache.build(model, documents(COUNT), batch_tokens=64)
    assert len(cache) == COUNT
    return cache


@pytest.fixture
def _small_pieces(monkeypatch):
    """A piece a batch."""
    monkeypatch.setattr("selfaug.model.cache._PIECE_SECONDS", 0.0)


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


def test_a_build_that_was_killed_goes_on_with_the_same_states(tmp_path, model, whole):
    folder = tmp_path / "cache"
    process = start(folder, COUNT)  # it writes a piece a batch
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("progress") and int(line.split()[1]) > COUNT // 3:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    cache = ReferenceCache.open(folder, model)
    assert COUNT // 3 < len(cache) < COUNT
    left = sum(len(document.input_ids) for document in cache.missing(documents(COUNT)))
    with Tokens(model) as ran:
        cache.build(model, documents(COUNT), batch_tokens=64)
    assert ran.count == left  # nothing that was done is computed again
    assert states(cache) == states(whole)


def test_an_interrupted_build_regroups_nothing(tmp_path, model, whole, monkeypatch):
    """What is missing is computed in batches of the same shapes: others would round differently."""
    monkeypatch.setattr("selfaug.model.cache._PIECE", 5_000)
    first = ReferenceCache.open(tmp_path, model)
    first.build(model, documents(COUNT), batch_tokens=64)
    pieces = sorted(tmp_path.glob("piece-*"))
    assert len(pieces) > 10
    for lost in pieces[::3]:
        lost.unlink()
    again = ReferenceCache.open(tmp_path, model)
    assert 0 < len(again) < COUNT
    again.build(model, documents(COUNT), batch_tokens=64)
    assert states(again) == states(first) == states(whole)


def test_a_second_build_costs_nothing_and_new_documents_add_a_piece(tmp_path, model):
    docs = documents(30)
    cache = ReferenceCache.open(tmp_path, model)
    added = cache.build(model, docs[:20])
    assert added == cache.size_of(docs[:20]) == sum(d.rows for d in docs[:20]) * 32 * 4
    before = content(tmp_path)
    assert len(before) == 2
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


@pytest.mark.usefixtures("_small_pieces")
def test_what_a_cut_off_build_has_finished_is_there_for_a_build_of_other_rows(tmp_path, model):
    docs = documents(100)

    def stop(done: int, total: int) -> None:
        if done >= 40:
            raise StopAsyncIteration

    with pytest.raises(StopAsyncIteration):
        ReferenceCache.open(tmp_path, model).build(model, docs[:80], batch_tokens=64, on_progress=stop)
    other = ReferenceCache.open(tmp_path, model)
    assert 40 <= len(other) < 80
    left = other.missing(docs[1:])
    assert len(left) < 60
    with Tokens(model) as ran:
        assert other.build(model, docs[1:], batch_tokens=64) == other.size_of(left)
    assert ran.count == sum(len(doc.input_ids) for doc in left)
    assert 99 <= other.verify() <= 100


def test_what_a_killed_process_was_writing_is_deleted_when_it_is_old(tmp_path, model):
    cache = ReferenceCache.open(tmp_path, model)
    old, new = (tmp_path / f".piece-{number:016}.safetensors.{number}" for number in (1, 2))
    for partial in (old, new):
        partial.write_bytes(bytes(8))
    os.utime(old, (time.time() - 7200,) * 2)
    cache.build(model, documents(3))
    assert not old.exists()
    assert new.exists()  # another run may be at it


def test_documents_that_occur_twice_are_kept_once(tmp_path, model):
    docs = documents(5)
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, docs * 3)
    assert len(cache) == 5
    (piece,) = tmp_path.glob("piece-*")
    assert cache.size_of(docs) < piece.stat().st_size < cache.size_of(docs) + 1000


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
    model = build("llama-tied")
    assert states(ReferenceCache.open(shared, model)) == states(whole)
    assert states(ReferenceCache.open(raced, model)) == states(whole)


def test_a_build_that_waits_for_another_says_so(tmp_path, model, caplog, monkeypatch):
    cache = ReferenceCache.open(tmp_path / "cache", model)
    docs = documents(3)
    begun, said = threading.Event(), threading.Event()

    def other_run() -> None:
        with FileLock(cache.folder / f"{_name(document.key for document in docs)}.lock"):
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
    folder: Path,
    docs: list[Document],
    heard: Callable[[object], None] = lambda _: None,
    passes: Callable[[list[int]], None] = lambda _: None,
    caches: list[ReferenceCache] | None = None,
) -> ReferenceCache:
    """Build in two threads as the two ranks of one run.

    Args:
        heard: called with what the first gives both.
        passes: called with how many each of them has made.
        caches: of each; opened there if left out.
    """
    meeting, models, given = threading.Barrier(2), [build("llama-tied") for _ in range(2)], [None]
    made = [0, 0]

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

        def add(*_: object) -> None:
            made[rank] += 1

        models[rank].register_forward_pre_hook(add)
        cache = caches[rank] if caches else ReferenceCache.open(folder, models[rank])
        cache.build(
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
    passes(made)
    return ReferenceCache.open(folder, models[0])


def test_ranks_hear_that_the_first_one_waits(tmp_path, model, monkeypatch):
    """They would give up after half an hour in one call."""
    monkeypatch.setattr("selfaug.model.cache._TURN", 0.01)
    docs, waiting, told = documents(10), threading.Event(), 0
    ReferenceCache.open(tmp_path, model)

    def heard(value: object) -> None:
        nonlocal told
        told += value is False
        if told == 5:
            waiting.set()

    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / f"{_name(document.key for document in docs)}.lock"):
            building = pool.submit(as_two_ranks, tmp_path, docs, heard)
            assert waiting.wait(10)
        assert building.result(30).verify() == 10


def test_ranks_on_several_machines_wait_until_they_see_what_all_have_written(tmp_path, monkeypatch):
    write, late = _write_whole, []

    def as_over_a_network(path: Path, data: bytes) -> None:
        if not path.name.startswith("piece-"):
            write(path, data)
        elif late:
            threading.Timer(late[0], write, (path, data)).start()

    monkeypatch.setattr("selfaug.model.cache._write_whole", as_over_a_network)
    with monkeypatch.context() as once:
        once.setattr("selfaug.model.cache.SECONDS_UNTIL_SEEN", 0.0)
        with pytest.raises(CacheError, match="20 of 20 documents were not computed") as error:
            as_two_ranks(tmp_path, documents(20))
        assert "same folder" in error.value.hint
    late.append(0.3)
    assert as_two_ranks(tmp_path, documents(20)).verify() == 20


def test_ranks_run_as_many_batches_each(tmp_path):
    """Under FSDP, a pass needs all processes; what is run for that alone is not kept twice."""
    passes = []
    for count in (1, 40, 41, 42):
        folder = tmp_path / str(count)
        cache = as_two_ranks(folder, documents(count), passes=passes.append)
        assert cache.verify() == count
        kept = sum(path.stat().st_size for path in folder.glob("piece-*"))
        assert kept < cache.size_of(documents(count)) + 100 * count + 1000
    assert all(one == other > 0 for one, other in passes)
    assert len(passes) == 4


@pytest.mark.parametrize("first_is_early", [False, True])
def test_ranks_that_opened_the_folder_with_more_or_less_in_it_end_together(tmp_path, model, first_is_early):
    docs, passes = documents(10), []
    early = ReferenceCache.open(tmp_path, model)
    ReferenceCache.open(tmp_path, model).build(model, docs)
    late = ReferenceCache.open(tmp_path, model)
    caches = [early, late] if first_is_early else [late, early]
    as_two_ranks(tmp_path, docs, passes=passes.append, caches=caches)
    assert passes == [[0, 0]]
    assert all(doc in early for doc in docs)


def test_ranks_agree_on_what_is_missing_where_another_run_finishes_some_between_their_looks(tmp_path, model):
    docs, meeting = documents(10), threading.Barrier(2)
    looked, given = threading.Event(), []  # what the first one has given so far
    models = [build("llama-tied") for _ in range(3)]
    caches = [ReferenceCache.open(tmp_path, one) for one in models]

    def fill(rank: int) -> int:
        def barrier() -> None:
            meeting.wait(30)

        def from_first(value):
            if rank == 0:
                given.append(value)
                if len([value for value in given if isinstance(value, list)]) == 2:
                    looked.set()
            barrier()
            found = given[-1]
            barrier()
            if rank == 1 and found is True:  # the lock is theirs, and they look again
                looked.wait(30)
                caches[2].build(models[2], docs[:5])
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
    "flipped at its beginning": lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
    "flipped in the middle": flip,
    "flipped at its end": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut": lambda data: data[:-3],
    "longer": lambda data: data + b"}",
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["piece", "cache.json"])
def test_a_damaged_cache_is_refused(tmp_path, model, whole, file, damage):
    """At the latest when it is read; never used."""
    for name, data in content(whole.folder).items():
        (tmp_path / name).write_bytes(DAMAGE[damage](data) if name.startswith(file) else data)
    with pytest.raises(CacheError) as error:
        ReferenceCache.open(tmp_path, model).verify()
    assert "delete" in error.value.hint


def test_every_byte_of_a_piece_counts(tmp_path, model):
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, documents(2))
    (piece,) = tmp_path.glob("piece-*")
    whole = piece.read_bytes()
    for place in range(len(whole)):
        piece.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        with pytest.raises(CacheError):
            ReferenceCache.open(tmp_path, model).verify()


def test_a_damaged_document_is_refused_when_a_batch_asks_for_it(tmp_path, model):
    docs = make_docs((9, 2), (7, 2))
    cache = ReferenceCache.open(tmp_path, model)
    cache.build(model, [Document(d.ids, d.labels) for d in docs])
    (piece,) = tmp_path.glob("piece-*")
    data, states = piece.read_bytes(), cache._read(Document(docs[0].ids, docs[0].labels).key).tobytes()
    assert data.count(states) == 1
    piece.write_bytes(data.replace(states, flip(states)))
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


def test_a_disk_that_is_too_small_is_refused_before_anything_is_computed(small_disk, model):
    cache = ReferenceCache.open(small_disk, model)
    with Tokens(model) as ran, pytest.raises(StorageError) as error:
        cache.build(model, documents(400))
    assert ran.count == 0
    assert re.search(r"needs 0\.6 MB in .*, 0\.[123] MB free", str(error.value))
    assert "reference_cache_dir" in error.value.hint
    assert not list(small_disk.glob("*piece-*"))
    cache.build(model, documents(60))  # what fits, fits
    assert cache.verify() == 60


def free(monkeypatch: pytest.MonkeyPatch, sizes: Iterator[int]) -> None:
    """What the disk says of itself, each time that it is asked."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(
        "selfaug.model.disk_room.shutil.disk_usage", lambda _: usage._replace(free=next(sizes))
    )


def test_room_is_asked_for_what_is_missing(tmp_path, model, monkeypatch):
    cache = ReferenceCache.open(tmp_path, model)
    rows = documents(60)
    tokens = sum(len(row.input_ids) for row in rows)
    size = cache.size_of(rows)
    assert size < tokens * cache.row_bytes
    assert cache.bytes_to_write(rows) == size
    free(monkeypatch, itertools.repeat(size - 1))
    with pytest.raises(StorageError, match="the reference cache needs"):
        cache.require_room(iter(rows), tokens)
    free(monkeypatch, itertools.repeat(size))
    cache.require_room(iter(rows), tokens)
    cache.build(model, rows)
    free(monkeypatch, itertools.repeat(0))
    cache.require_room(iter(rows), tokens)
    with pytest.raises(StorageError):
        cache.require_room(documents(61), tokens)


@pytest.mark.usefixtures("_small_pieces")
def test_a_build_ends_before_others_have_filled_the_disk(tmp_path, model, monkeypatch):
    cache = ReferenceCache.open(tmp_path, model)
    free(monkeypatch, itertools.chain([10**9] * 2, itertools.repeat(1000)))
    with Tokens(model) as ran, pytest.raises(StorageError, match=r"needs .* in .*, 0\.0 MB free") as error:
        cache.build(model, documents(60), batch_tokens=64)
    assert "what has been computed is kept" in error.value.hint
    done = ran.count
    monkeypatch.undo()
    kept = ReferenceCache.open(tmp_path, model)
    assert 0 < kept.verify() < 60
    with Tokens(model) as ran:
        kept.build(model, documents(60), batch_tokens=64)
    assert ran.count == sum(len(doc.input_ids) for doc in documents(60)) - done
    assert kept.verify() == 60


@pytest.mark.usefixtures("_small_pieces")
def test_on_a_disk_that_is_full_all_the_same_what_is_written_is_kept(small_disk, model, monkeypatch):
    """As with a quota, of which `disk_usage` says nothing."""
    free(monkeypatch, itertools.repeat(10**9))
    cache = ReferenceCache.open(small_disk, model)
    with pytest.raises(StorageError, match="the disk is full or a quota is reached") as error:
        cache.build(model, documents(400), batch_tokens=64)
    assert "run again" in error.value.hint
    assert not list(small_disk.glob(".piece-*"))
    kept = ReferenceCache.open(small_disk, model)
    assert 20 < kept.verify() < 400


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


def test_a_quota_leaves_nothing_half_written(tmp_path, model):
    cache = ReferenceCache.open(tmp_path, model)
    with file_size_limit(100_000), pytest.raises(StorageError, match="a quota is reached") as error:
        cache.build(model, documents(400))
    assert "reference_cache_dir" in error.value.hint
    assert list(content(tmp_path)) == ["cache.json"]


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
    assert not list(folder.glob("*piece-*"))


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
