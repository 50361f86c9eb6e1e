"""A process that builds a reference cache: `build_cache.py FOLDER DOCUMENTS [SECOND_FOLDER RANK]`.

With a second folder it builds the first as one of two ranks, and then the second by itself. Prints a line for each
batch that it has computed, and for each build how many tokens it ran through the model.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from selfaug.model import cache as cache_module
from selfaug.model.cache import Document, ReferenceCache
from tiny_models import build, make_docs


def documents(count: int) -> list[Document]:
    docs = make_docs(*((3 + i % 17, 1 + i % 5) for i in range(count)), seed=4)
    return [Document(doc.ids, doc.labels) for doc in docs]


def file_barrier(folder: Path, rank: int, processes: int):
    """Waits until every process has come as often as this one."""
    visits = 0

    def wait() -> None:
        nonlocal visits
        visits += 1
        (folder / f"barrier-{visits}-{rank}").touch()
        while len(list(folder.glob(f"barrier-{visits}-*"))) < processes:
            time.sleep(0.005)

    return wait


def file_from_first(folder: Path, rank: int, barrier):
    """Gives all processes what the first one calls it with."""
    calls = 0

    def from_first(value):
        nonlocal calls
        calls += 1
        file = folder / f"value-{calls}"
        if rank == 0:
            file.write_bytes(pickle.dumps(value))
        barrier()
        return pickle.loads(file.read_bytes())

    return from_first


def main(folder: str, count: str, second: str | None = None, rank: str = "0") -> None:
    torch.set_num_threads(1)
    cache_module._PIECE_SECONDS = 0.0  # a piece a batch
    model = build("llama-tied")
    tokens = 0

    def counted(_module, _args, inputs) -> None:
        nonlocal tokens
        tokens += int(inputs["attention_mask"].sum())

    def fill(folder: str, **options) -> None:
        nonlocal tokens
        tokens = 0
        cache = ReferenceCache.open(folder, model)
        cache.build(
            model,
            documents(int(count)),
            batch_tokens=64,
            on_progress=lambda done, todo: print("progress", done, todo, flush=True),
            **options,
        )
        print("tokens", tokens, "documents", len(cache), flush=True)

    model.register_forward_pre_hook(counted, with_kwargs=True)
    if second is None:
        fill(folder)
        return
    meeting = Path(folder).with_name("meeting")
    meeting.mkdir(exist_ok=True)
    barrier = file_barrier(meeting, int(rank), 2)
    from_first = file_from_first(meeting, int(rank), barrier)
    fill(folder, rank=int(rank), processes=2, barrier=barrier, from_first=from_first)
    fill(second)


if __name__ == "__main__":
    main(*sys.argv[1:])
