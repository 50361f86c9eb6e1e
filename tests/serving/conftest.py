from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn.server
from serving_fixtures import client, engine, log, served, server, start, tuned

__all__ = ["client", "engine", "log", "served", "server", "start", "tuned"]


class _Hurried:
    """asyncio, whose naps are short."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))


@pytest.fixture(scope="session", autouse=True)
def servers_end_at_once() -> Iterator[None]:
    """uvicorn looks every tenth of a second whether it shall end, and then waits as long: for each of many servers."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uvicorn.server, "asyncio", _Hurried())
        yield
