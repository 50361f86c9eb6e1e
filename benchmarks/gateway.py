"""What the gateway adds: answers through `selfaug serve --upstream` beside those through a bare proxy.

    python -m benchmarks.gateway --output benchmarks/results/gateway.md

The server behind both is a stub that answers at once with some tokens, as a stream or whole, whichever is asked for.
The bare proxy passes bodies on unread, and what comes back piece by piece; the gateway checks key, rate and size, reads
the request, makes token ids of it, reads the stream, and counts. Requests come at a steady rate whatever comes back;
latency is until the whole answer is there. All three are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load import client, free_port, general_requests, make_run, running
from benchmarks.processes import interleaved
from benchmarks.report import machine, median_and_range, publish, ratio_of_rounds, table
from selfaug.model.loading import DEMO_MODEL

__all__ = ["main"]

_MODES = ("whole", "stream")


async def measure(url: str, model: str, rate: float, seconds: float, stream: bool) -> list[float]:
    """Latency of each answer."""
    texts = [messages[0]["content"] for messages in general_requests(100)]
    found: list[float] = []

    async with client(url) as asking:

        async def ask(number: int) -> None:
            body = {"model": model, "prompt": texts[number % len(texts)], "max_tokens": 16, "stream": stream}
            began = time.perf_counter()
            answer = await asking.post("/v1/completions", json=body)
            if answer.status_code != 200:
                raise SystemExit(f"{answer.status_code}: {answer.text}")
            found.append(time.perf_counter() - began)

        for number in range(20):  # connections, caches
            await ask(number)
        found.clear()
        began = time.perf_counter()
        pending = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            pending.append(asyncio.create_task(ask(number)))
        await asyncio.gather(*pending)
    return found


@contextmanager
def started(name: str, port: int, upstream: str, run: Path) -> Iterator[str]:
    """The proxy or the gateway; its address."""
    url = f"http://127.0.0.1:{port}"
    if name == "bare proxy":
        command = [sys.executable, "-m", "benchmarks.proxies", "--proxy", upstream, "--port", str(port)]
        with running(command, url, "/v1/models"):
            yield url
    else:
        command = [sys.executable, "-m", "selfaug", "serve", str(run), "--port", str(port)]
        command += ["--upstream", f"{upstream}/v1", "--rate-limit", "0", "--no-check", "--max-batch", "64"]
        with running(command, url, "/ready"):
            yield url


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--run", type=Path, help="run of that model; one is trained for a step if left out")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="not used: nothing is computed")
    parser.add_argument("--output", type=Path, default=None, help="Markdown file to write")
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    names = ("bare proxy", "gateway")
    found: dict[tuple[str, str], list[list[float]]] = {(name, mode): [] for name in names for mode in _MODES}
    behind = free_port()
    upstream = f"http://127.0.0.1:{behind}"
    command = [sys.executable, "-m", "benchmarks.proxies", "--port", str(behind)]
    command += ["--tokens", str(arguments.tokens)]
    with tempfile.TemporaryDirectory() as folder, running(command, upstream, "/v1/models"):
        run = arguments.run or make_run(Path(folder), arguments.model, "float32")
        for number, name in interleaved(names, arguments.rounds):
            print(f"round {number + 1}: {name}", file=sys.stderr)
            with started(name, free_port(), upstream, run) as url:
                for mode in _MODES:
                    model = "champion"
                    latencies = asyncio.run(
                        measure(url, model, arguments.rate, arguments.seconds, mode == "stream")
                    )
                    found[name, mode].append(latencies)

    def quantiles(name: str, mode: str, share: float) -> list[float]:
        return [
            1000 * statistics.quantiles(one, n=100, method="inclusive")[round(100 * share) - 1]
            for one in found[name, mode]
        ]

    rows: list[dict[str, Any]] = []
    for mode in _MODES:
        for name in names:
            middle, high = (quantiles(name, mode, share) for share in (0.5, 0.99))
            base_middle, base_high = (quantiles(names[0], mode, share) for share in (0.5, 0.99))
            rows.append(
                {
                    "through": f"{name}, {mode}",
                    "median, ms": median_and_range(middle, 2),
                    "× bare proxy": ratio_of_rounds(middle, base_middle),
                    "99 %, ms": median_and_range(high, 2),
                    "99 % × bare proxy": ratio_of_rounds(high, base_high),
                }
            )
    text = f"{arguments.rate:g} requests a second, answers of {arguments.tokens} tokens.\n\n{table(rows)}"
    data = {
        f"{name}, {mode}": [
            {"median": a, "p99": b}
            for a, b in zip(quantiles(name, mode, 0.5), quantiles(name, mode, 0.99), strict=True)
        ]
        for name, mode in found
    }
    publish("gateway", "Gateway", text, {"results": data}, arguments.output, where)


if __name__ == "__main__":
    main()
