"""The stub and the bare proxy of the gateway's benchmark. Each is a process, and starts at once: no torch here.

python -m benchmarks.proxies --port 9000                                  # the stub
python -m benchmarks.proxies --port 9001 --proxy http://127.0.0.1:9000    # the proxy before it
"""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator

import httpx2 as httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

__all__ = ["main"]


def stub(tokens: int) -> Starlette:
    """Answers at once."""

    async def models(_: Request) -> Response:
        return JSONResponse({"data": []})

    async def completions(request: Request) -> Response:
        body = json.loads(await request.body())
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        if not body.get("stream"):
            choice = {"index": 0, "text": "word " * tokens, "finish_reason": "length"}
            return JSONResponse({"id": "x", "object": "text_completion", "choices": [choice], "usage": usage})

        async def events() -> AsyncIterator[str]:
            for number in range(tokens):
                finish = "length" if number == tokens - 1 else None
                choice = {"index": 0, "text": "word ", "finish_reason": finish}
                yield f"data: {json.dumps({'id': 'x', 'choices': [choice]})}\n\n"
            yield f"data: {json.dumps({'id': 'x', 'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", models),
        ]
    )


def bare_proxy(upstream: str) -> Starlette:
    """Passes on what it gets, unread."""
    asking = httpx.AsyncClient(base_url=upstream, timeout=600, trust_env=False)

    async def models(_: Request) -> Response:
        return JSONResponse({"data": []})

    async def completions(request: Request) -> Response:
        sent = asking.build_request(
            "POST",
            "/v1/completions",
            content=await request.body(),
            headers={"content-type": "application/json"},
        )
        found = await asking.send(sent, stream=True)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in found.aiter_raw():
                    yield piece
            finally:
                await found.aclose()

        return StreamingResponse(pieces(), found.status_code, media_type=found.headers["content-type"])

    return Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", models),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--proxy", default=None, help="address of the server behind; the stub if left out")
    parser.add_argument("--tokens", type=int, default=16, help="of each answer of the stub")
    arguments = parser.parse_args()
    app = bare_proxy(arguments.proxy) if arguments.proxy else stub(arguments.tokens)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="critical", access_log=False)


if __name__ == "__main__":
    main()
