"""The HTTP application: OpenAI's API over an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from selfaug.serving.answer_paths import add_answers
from selfaug.serving.feedback import add_feedback
from selfaug.serving.generation import TUNED
from selfaug.serving.guard import Guard, Limits, write_to_stderr
from selfaug.serving.keys import ApiKeys
from selfaug.serving.metrics import Metrics
from selfaug.serving.openai_responses import error_body
from selfaug.serving.response_schemas import MODEL, MODELS, described
from selfaug.serving.served import ApiError, Served

__all__ = ["create_app"]


def create_app(
    served: Served,
    *,
    keys: ApiKeys | None,
    limits: Limits | None = None,
    only_here: bool = False,
    log: Callable[[str], None] = write_to_stderr,
) -> ASGIApp:
    """The application.

    Args:
        served: models and what belongs to them.
        keys: that are taken; None takes requests without a key.
        limits: of a request.
        only_here: whether requests that name another host than this machine, or come from a page of one, are refused.
        log: gets a line of JSON for every request, without any text of it.
    """
    app = FastAPI(
        title="selfaug",
        description="OpenAI's API for a base model and its tuned model.",
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
        openapi_url="/openapi.json",
        # Behind a proxy with TLS the redirect would lead to plain HTTP, and the prompt would be sent there once more.
        redirect_slashes=False,
        # A page elsewhere can have a browser post here, but not say that it is JSON.
        strict_content_type=True,
    )
    metrics = Metrics(
        lambda: served.engine.waiting + served.gate.waiting,
        lambda: served.engine.running,
        lambda: served.readiness.ready,
        lambda: not served.readiness.not_followed,
        lambda: [] if served.watcher is None else served.watcher.samples(),
    )
    _errors(app)
    _operations(app, served, metrics)
    add_answers(app, served, metrics)
    add_feedback(app, served)
    app.openapi = _description(app, served)  # type: ignore[method-assign]

    def on_done(path: str, status: int, seconds: float) -> None:
        metrics.requests.labels(path, str(status or 499)).inc()

    return Guard(
        app,
        keys=keys,
        limits=limits or Limits(),
        only_here=only_here,
        known=_path_name(app),
        on_done=on_done,
        log=log,
    )


def _path_name(app: FastAPI) -> Callable[[str], str]:
    paths = {getattr(route, "path", "") for route in app.routes}

    def name(path: str) -> str:
        return path if path in paths else "/v1/models" if path.startswith("/v1/models/") else "other"

    return name


# ---- what FastAPI has to know


_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
    for status, text in {
        400: "The request is wrong; the message says what.",
        401: "No key, or a wrong one.",
        403: "Without a key, this server answers no page from elsewhere.",
        404: "There is no such model or path.",
        405: "The path has other methods.",
        408: "The body came too slowly.",
        413: "The body is too large, or the prompt for the GPU's memory.",
        421: "Without a key, this server answers to the names of its own machine only.",
        429: "Too many requests; `Retry-After` says when to try again.",
        500: "The engine failed.",
        502: "The server behind this one failed.",
        503: "Not ready, or shutting down; or the GPU's memory is too small for one more prompt now.",
        504: "The answer took too long.",
    }.items()
}


_NEEDS: dict[str, list[dict[str, list[str]]]] = {"/health": [], "/ready": [{}, {"key": []}]}
"""Where the key is not needed; `/ready` says more with it."""


def _description(app: FastAPI, served: Served) -> Callable[[], dict[str, Any]]:
    """The API's description, with the key, and without FastAPI's own form of errors, which is not used."""
    from fastapi.openapi.utils import get_openapi

    described: tuple[str, ...] = ()

    def description() -> dict[str, Any]:
        nonlocal described
        # Another run that takes its place brings other names.
        if app.openapi_schema is None or described != tuple(served.names):
            described = tuple(served.names)
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    for status, answer in _ERRORS.items():
                        operation["responses"].setdefault(str(status), answer)
                    operation["security"] = _NEEDS.get(path, [{"key": []}])
            components = schema["components"]
            for name in ("ChatRequest", "CompletionRequest"):
                components["schemas"][name]["properties"]["model"]["enum"] = list(served.names)
            components["schemas"]["RagRequest"]["properties"]["model"]["anyOf"][0]["enum"] = list(
                served.names
            )
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = schema
        return app.openapi_schema

    return description


def _errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [_problem(one) for one in error.errors()[:20]]
        text = "; ".join(f"{place}: {message}" if place else message for place, message in problems)
        return JSONResponse(error_body(400, text, code="invalid_value", param=problems[0][0] or None), 400)

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        status = error.status_code
        text = {404: _no_path(app), 405: "this path has other methods."}.get(status, str(error.detail))
        return JSONResponse(error_body(status, text), status, headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body(500, f"{type(error).__name__} in the server."), 500)


def _no_path(app: FastAPI) -> str:
    paths = [getattr(route, "path", "") for route in app.routes]
    served = ", ".join(path for path in paths if path.startswith("/v1/") and "{" not in path)
    return f"there is no such path; this server has {served}, and no Responses API (`/v1/responses`)."


def _problem(error: Mapping[str, Any]) -> tuple[str, str]:
    """The field that is wrong, and what is wrong with it."""
    if error["type"] == "json_invalid":  # its place is one in the text, no field
        return "", f"the body is no JSON: {error['ctx']['error']}"
    if (
        error["type"] == "model_attributes_type" and len(error["loc"]) == 1
    ):  # as curl sends it unless told otherwise
        return "", "the body is no JSON object: send one, with the header `content-type: application/json`"
    return ".".join(str(part) for part in error["loc"][1:]), str(error["msg"])


# ---- what runs the server


def _operations(app: FastAPI, served: Served, metrics: Metrics) -> None:
    # HEAD, too: by default, many health checks ask with that.
    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready")
    async def ready(request: Request) -> JSONResponse:
        """The server may get requests; why not, it says in detail with the key only."""
        body = served.readiness.told(trusted=request.state.trusted)
        return JSONResponse(body, 200 if body["ready"] else 503)

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", response_model=None, responses=described(200, "All models.", MODELS))
    async def models() -> dict[str, Any]:
        """The base model, the tuned model, and aliases of them."""
        return {"object": "list", "data": [_card(served, name) for name in served.names]}

    @app.get("/v1/models/{name:path}", response_model=None, responses=described(200, "The model.", MODEL))
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        served.model(name)
        return _card(served, name)


def _card(served: Served, name: str) -> dict[str, Any]:
    model = served.names[name]
    root = served.tuned if model == TUNED else served.base
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "selfaug",
        "root": root,
        "parent": served.base if model == TUNED else None,
        "max_model_len": served.window,
    }
