"""Load for a server that speaks OpenAI's API: the server as a process of its own, and clients that ask it."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from selfaug.data.market_reports import market_report_rows
from selfaug.eval.general_suite import general_suite
from selfaug.records import write_lines

__all__ = ["KEY", "Answer", "ask_all", "client", "general_requests", "make_run", "one", "running"]

KEY = "the key of a benchmark's server"


@dataclass(frozen=True)
class Answer:
    """What came back: status (0: the client gave up), seconds until all was here, tokens, and text."""

    status: int
    seconds: float
    tokens: int = 0
    text: str = ""


def make_run(folder: Path, model: str, dtype: str) -> Path:
    """A run to be served: an adapter, trained for a step only, because training doesn't matter here."""
    rows = folder / "rows.jsonl"
    keys = ("question", "context", "answer")
    write_lines(rows, [{key: row[key] for key in keys} for row in market_report_rows("train", 64)])
    run = folder / "run"
    if not run.exists():
        command = ["train", "--model", model, "--train", str(rows), "--output", str(run)]
        command += ["--steps", "1", "--alpha", "0"]
        settings = [f"model.dtype={dtype}", "selfaug.monitor_prompts=0", "train.batch_size=2"]
        selfaug(*command, *(part for one in settings for part in ("--set", one)))
        # Measured now: a server without a pause would take half a minute a prompt for it, and be watched only then.
        selfaug("monitor", str(run), "--reference")
    return run


def selfaug(*arguments: str) -> None:
    """Run a command of selfaug to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "selfaug", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"selfaug {' '.join(arguments)}\n{done.stderr}")


def general_requests(count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Chats of one turn: requests of the general suite, in an order made from the seed."""
    items = [item for item in general_suite("dev") if not item.choices]
    chosen = random.Random(seed).sample(items, min(count, len(items)))
    return [[{"role": "user", "content": item.prompt}] for item in chosen]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], url: str, path: str, *, threads: int | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a process, from the moment that a path of it answers 200 until it has ended by SIGTERM."""
    limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "SELFAUG_API_KEY": KEY, **limits}
    where: Any = subprocess.DEVNULL if log is None else log.open("wb")
    process = subprocess.Popen([*command], stdout=where, stderr=where, env=environment)
    try:
        ends = time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"{url}{path}", trust_env=False, timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None or time.monotonic() > ends:
                raise SystemExit(f"{' '.join(command)} is not there (exit code {process.poll()})")
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait(120)


@asynccontextmanager
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """With the key, and as many connections as are needed."""
    async with httpx.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {KEY}"},
        timeout=600,
        trust_env=False,
        limits=httpx.Limits(max_connections=None),
    ) as made:
        yield made


async def one(
    asking: httpx.AsyncClient,
    model: str,
    messages: list[dict[str, str]],
    max_tokens: int,
    patience: float | None = None,
) -> Answer:
    """Ask once.

    Args:
        asking: the client.
        model: name.
        messages: of the chat.
        max_tokens: of the answer.
        patience: seconds after which the client goes away.
    """
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    began = time.monotonic()
    try:
        async with asyncio.timeout(patience):
            found = await asking.post("/v1/chat/completions", json=body)
    except TimeoutError:
        return Answer(0, time.monotonic() - began)
    seconds = time.monotonic() - began
    if found.status_code != 200:
        return Answer(found.status_code, seconds)
    data = found.json()
    return Answer(
        200, seconds, data["usage"]["completion_tokens"], data["choices"][0]["message"]["content"] or ""
    )


async def ask_all(
    url: str,
    models: Sequence[str],
    requests: Sequence[list[dict[str, str]]],
    *,
    clients: int,
    max_tokens: int,
    on_answer: Callable[[], None] = lambda: None,
) -> tuple[float, list[Answer]]:
    """So many clients at once ask everything that there is to ask, each one thing after the other, models in turn.

    Returns:
        Seconds, and the answers in the order of the requests.
    """
    answers: dict[int, Answer] = {}
    waiting = iter(enumerate(requests))

    async with client(url) as asking:

        async def work() -> None:
            for number, messages in waiting:
                answers[number] = await one(asking, models[number % len(models)], messages, max_tokens)
                on_answer()

        began = time.monotonic()
        await asyncio.gather(*(work() for _ in range(clients)))
        seconds = time.monotonic() - began
    return seconds, [answers[number] for number in sorted(answers)]
