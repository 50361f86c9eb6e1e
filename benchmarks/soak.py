"""A server at twice the load that it can sustain: does it live, stay as large, and say 429 to what is too much?

    python -m benchmarks.soak --output benchmarks/results/soak.md

First as many clients as it answers at once find what it sustains. Then requests come at twice that rate whatever it
does, half of them streams, one in twenty of a client that goes away. Memory is the server's resident memory: the
median of the last tenth of the time against that of the second tenth (in the first, caches and allocators fill up).
The traffic is watched. In the end SIGTERM must end it with exit code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

from benchmarks.load import (
    Answer,
    ask_all,
    client,
    free_port,
    general_requests,
    make_run,
    one,
    running,
)
from benchmarks.report import machine, publish, table
from selfaug.model.loading import DEMO_MODEL
from selfaug.phases.monitor import monitor_status

__all__ = ["main"]

_GOES_AWAY = 0.05


async def stream(
    asking: httpx.AsyncClient, model: str, messages: list[dict[str, str]], max_tokens: int
) -> Answer:
    """Ask for a stream, and read it to its end."""
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "stream": True}
    began = time.monotonic()
    tokens, ended = 0, False
    async with asking.stream("POST", "/v1/chat/completions", json=body) as found:
        async for line in found.aiter_lines():
            tokens += line.startswith("data: {")
            ended |= line == "data: [DONE]"
    status = found.status_code
    return Answer(status if status != 200 or ended else -1, time.monotonic() - began, tokens)


async def load(
    url: str, models: list[str], rate: float, seconds: float, max_tokens: int, process: psutil.Process
) -> tuple[list[Answer], list[tuple[float, int]]]:
    """Requests at a steady rate, whatever comes back; and the server's memory over time."""
    asked = general_requests(200)
    rng = random.Random(0)
    answers: list[Answer] = []
    memory: list[tuple[float, int]] = []
    began = time.monotonic()

    async def remember() -> None:
        while True:
            memory.append((time.monotonic() - began, process.memory_info().rss))
            await asyncio.sleep(min(5.0, seconds / 50))

    async with client(url) as asking, asyncio.TaskGroup() as group:
        watching = group.create_task(remember())
        pending: set[asyncio.Task[None]] = set()

        async def ask(number: int) -> None:
            model, messages = models[number % len(models)], asked[number % len(asked)]
            try:
                if rng.random() < _GOES_AWAY:
                    answers.append(await one(asking, model, messages, max_tokens, rng.uniform(0.05, 2)))
                elif number % 2:
                    answers.append(await stream(asking, model, messages, max_tokens))
                else:
                    answers.append(await one(asking, model, messages, max_tokens))
            except httpx.HTTPError as error:
                print(f"request {number}: {error!r}", file=sys.stderr)
                answers.append(Answer(-1, 0.0))

        number, shown = 0, began
        while (now := time.monotonic()) - began < seconds:
            if now - began >= number / rate:
                task = asyncio.create_task(ask(number))
                pending.add(task)
                task.add_done_callback(pending.discard)
                number += 1
            else:
                await asyncio.sleep(min(number / rate - (now - began), 0.05))
            if now - shown > 60:
                shown = now
                counts = Counter(answer.status for answer in answers)
                print(f"{now - began:6.0f} s  {dict(counts)}  {memory[-1][1] / 1e6:,.0f} MB", file=sys.stderr)
        await asyncio.gather(*pending)
        watching.cancel()
    return answers, memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--run", type=Path, help="run of that model; one is trained for a step if left out")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--requests", type=int, default=64, help="that find the rate that is sustained")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=None, help="of the server; by default its own choice")
    parser.add_argument("--output", type=Path, default=None, help="Markdown file to write")
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or make_run(Path(folder), arguments.model, arguments.dtype)
        command = [sys.executable, "-m", "selfaug", "serve", str(run), "--port", str(port), "--device", "cpu"]
        command += ["--rate-limit", "0", "--max-batch", str(arguments.max_batch), "--sample", "1"]
        with running(command, url, "/ready", threads=arguments.threads) as server:
            process = psutil.Process(server.pid)
            seconds, answers = asyncio.run(
                ask_all(
                    url,
                    ["champion"],
                    general_requests(arguments.requests, seed=1),
                    clients=arguments.max_batch,
                    max_tokens=arguments.max_tokens,
                )
            )
            sustained = len(answers) / seconds
            print(f"sustained: {sustained:.2f} requests a second", file=sys.stderr)
            answers, memory = asyncio.run(
                load(
                    url,
                    ["champion", arguments.model],
                    2 * sustained,
                    60 * arguments.minutes,
                    arguments.max_tokens,
                    process,
                )
            )
            alive = server.poll() is None
        code = server.returncode
        counts = monitor_status(run)["counts"]
    statuses = Counter(answer.status for answer in answers)
    whole = [answer for answer in answers if answer.status == 200]
    span = memory[-1][0]

    def between(begin: float, end: float) -> float:
        return statistics.median(size for at, size in memory if begin * span <= at <= end * span) / 1e6

    early, late = between(0.1, 0.2), between(0.9, 1.0)
    waits = sorted(answer.seconds for answer in whole)
    facts: dict[str, Any] = {
        "minutes": f"{span / 60:.1f}",
        "requests a second: sustained, sent": f"{sustained:.2f}, {2 * sustained:.2f}",
        "requests": f"{len(answers):,}",
        "answered (200)": f"{statuses[200]:,}",
        "too many (429)": f"{statuses[429]:,}",
        "client went away": f"{statuses[0]:,}",
        "anything else": f"{len(answers) - statuses[200] - statuses[429] - statuses[0]:,}",
        "wait of the answered, s: median, 99 %": f"{statistics.median(waits):.2f}, {waits[int(0.99 * len(waits))]:.2f}",
        "server alive at the end, exit code after SIGTERM": f"{'yes' if alive else 'NO'}, {code}",
        "memory, MB: second tenth, last tenth": f"{early:,.0f}, {late:,.0f} ({100 * (late / early - 1):+.1f} %)",
        "watched: offered, dropped, lost, scored": ", ".join(
            f"{counts.get(name, 0):,}" for name in ("offered", "dropped", "lost", "scored")
        ),
    }
    publish(
        "soak",
        "Twice the sustainable load",
        table([{"": name, "figure": value} for name, value in facts.items()]),
        {
            "statuses": {str(status): count for status, count in statuses.items()},
            "sustained": sustained,
            "memory": memory,
            "exit_code": code,
            "alive": alive,
            "counts": counts,
        },
        arguments.output,
        where,
    )


if __name__ == "__main__":
    main()
