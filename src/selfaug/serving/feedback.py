"""What users think of answers."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import FastAPI
from pydantic import Field

from selfaug.serving.openai_requests import KnownFields
from selfaug.serving.response_schemas import FEEDBACK, described
from selfaug.serving.served import ApiError, Served

__all__ = ["FeedbackRequest", "add_feedback"]


class FeedbackRequest(KnownFields):
    """Body of /v1/feedback."""

    id: str = Field(min_length=1, max_length=200, description="The `id` of the answer.")
    vote: Literal["up", "down"]


def add_feedback(app: FastAPI, served: Served) -> None:
    """Add the path that takes votes."""

    taken = described(202, "The vote is taken.", FEEDBACK)

    @app.post("/v1/feedback", status_code=202, response_model=None, responses=taken)
    async def feedback(body: FeedbackRequest) -> dict[str, str]:
        """A thumb up or down for an answer of the tuned model; the first one counts."""
        if served.watcher is None:
            raise ApiError(404, "nobody watches the traffic of this server.", code="not_watched")
        if not await asyncio.to_thread(served.watcher.vote, body.id, body.vote == "up"):
            raise ApiError(
                404,
                f"no answer of the tuned model lately has the id {body.id!r:.100}.",
                code="answer_not_found",
                param="id",
            )
        return {"object": "feedback", "id": body.id, "vote": body.vote}
