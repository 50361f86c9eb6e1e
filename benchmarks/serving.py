"""Answers of a server to one client and to several at once, beside `transformers serve` on the same machine.

    python -m benchmarks.serving --output benchmarks/results/serving.md

Every client sends requests of the general suite one after the other, without streaming, and waits for each answer;
answers are greedy. The base model is what both servers can serve alike; the tuned one is the same weights with a LoRA
adapter that is not merged. `mixed` asks base and tuned model in turn: their rows are in the same batch. `watched` has a
monitor that measures the drift of every request it may. Each server is a process, started anew for every measurement,
and answers some requests before it is timed. Whether answers are those of a single client is counted, too: in float32
all of them must be.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.load import ask_all, free_port, general_requests, make_run, running
from benchmarks.processes import interleaved
from benchmarks.report import machine, median_and_range, publish, table
from selfaug.model.loading import DEMO_MODEL, demo_model_path

__all__ = ["main"]


class _Server(NamedTuple):
    """What is started, and which names are asked in turn."""

    command: list[str]
    path: str
    models: list[str]


def servers(run: Path, model: str, names: Sequence[str], port: int) -> dict[str, _Server]:
    """What is compared."""
    own = [sys.executable, "-m", "selfaug", "serve", str(run), "--port", str(port), "--device", "cpu"]
    own += ["--rate-limit", "0", "--no-check"]
    folder = str(demo_model_path()) if model == DEMO_MODEL else model
    theirs = [str(Path(sys.executable).with_name("transformers")), "serve", folder, "--port", str(port)]
    theirs += ["--device", "cpu"]
    found = {
        "selfaug, base": _Server([*own, "--no-monitor"], "/ready", [model]),
        "selfaug, tuned": _Server([*own, "--no-monitor"], "/ready", ["champion"]),
        "selfaug, mixed": _Server([*own, "--no-monitor"], "/ready", [model, "champion"]),
        "selfaug, tuned, watched": _Server([*own, "--sample", "1"], "/ready", ["champion"]),
        "transformers serve, base": _Server(theirs, "/health", [folder]),
        "transformers serve, continuous batching, base": _Server(
            [*theirs, "--continuous-batching"], "/health", [folder]
        ),
    }
    return {name: found[name] for name in names}


NAMES = (
    "selfaug, base",
    "selfaug, tuned",
    "selfaug, mixed",
    "selfaug, tuned, watched",
    "transformers serve, base",
    "transformers serve, continuous batching, base",
)


def measure(
    server: _Server, port: int, clients: Sequence[int], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Tokens a second, waiting times and answers for each number of clients."""
    url = f"http://127.0.0.1:{port}"
    results = []

    def ask(requests: Sequence[list[dict[str, str]]], count: int) -> Any:
        return asyncio.run(
            ask_all(url, server.models, requests, clients=count, max_tokens=arguments.max_tokens)
        )

    with running(server.command, url, server.path, threads=arguments.threads):
        for count in clients:
            ask(general_requests(2 * len(server.models), seed=1), count)
            seconds, answers = ask(general_requests(arguments.requests), count)
            failed = [one.status for one in answers if one.status != 200]
            if failed:
                raise SystemExit(f"{server.command}: {failed}")
            waits = sorted(one.seconds for one in answers)
            results.append(
                {
                    "clients": count,
                    "rate": sum(one.tokens for one in answers) / seconds,
                    "median_wait": statistics.median(waits),
                    "texts": [one.text for one in answers],
                }
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--run", type=Path, help="run of that model; one is trained for a step if left out")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--servers", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of the server; by default its own choice")
    parser.add_argument("--output", type=Path, default=None, help="Markdown file to write")
    arguments = parser.parse_args()
    where = machine("cpu", arguments.threads)
    found: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in arguments.servers}
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or make_run(Path(folder), arguments.model, arguments.dtype)
        for number, name in interleaved(arguments.servers, arguments.rounds):
            print(f"round {number + 1}: {name}", file=sys.stderr)
            port = free_port()
            server = servers(run, arguments.model, [name], port)[name]
            if "transformers" in name:
                server = server._replace(command=[*server.command, "--dtype", arguments.dtype])
            found[name].append(measure(server, port, arguments.clients, arguments))
    rows, results = [], {}
    for name, rounds in found.items():
        single = rounds[0][0]
        for place, count in enumerate(arguments.clients):
            here = [one[place] for one in rounds]
            same = sum(a == b for a, b in zip(here[0]["texts"], single["texts"], strict=True))
            scale = [one["rate"] / first[0]["rate"] for one, first in zip(here, rounds, strict=True)]
            rows.append(
                {
                    "server, model": name,
                    "clients": count,
                    "tokens a second": median_and_range([one["rate"] for one in here], 1),
                    f"× {arguments.clients[0]} client": median_and_range(scale, 2),
                    "median wait, s": median_and_range([one["median_wait"] for one in here], 2),
                    f"answers as with {arguments.clients[0]}": f"{same} of {len(single['texts'])}",
                }
            )
        results[name] = [
            [{key: value for key, value in one.items() if key != "texts"} for one in round_]
            for round_ in rounds
        ]
    publish("serving", "Serving", table(rows), {"results": results}, arguments.output, where)


if __name__ == "__main__":
    main()
