"""Who may see the dashboard, and what every answer tells the browser."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qsl, quote, urlencode

from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfaug.loopback import names_this_machine

__all__ = ["Access"]

# Nothing is loaded from elsewhere, no script and no style stands in a page itself, and no other page shows this one.
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

_NO_TOKEN = (
    "This dashboard wants its token. Open the address that `selfaug dashboard` printed: it has the token in it, and "
    "your browser then keeps it.\n"
)


class Access:
    """Lets requests through that have the token, ask only to read, and name this machine.

    The token comes once in the address (`?token=…`) and is kept in a cookie from then on, so that it doesn't stand in
    the history of the browser.

    Args:
        app: the application.
        token: None lets everyone in.
        port: in the cookie's name: cookies of all ports of a machine are one heap.
        loopback: whether only this machine is listened to; then requests that name another host, as a page elsewhere
            could make a browser send, are refused.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, port: int, loopback: bool) -> None:
        self._app, self._token, self._loopback = app, token, loopback
        self._cookie = f"selfaug-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = message["headers"] = [*message.get("headers", ()), *_HEADERS]
                if not any(name.lower() == b"cache-control" for name, _ in found):
                    found.append((b"cache-control", b"no-store"))
            await send(message)

        answer = self._refusal(scope, headers)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("The dashboard only shows.\n", 405, {"allow": "GET, HEAD"})
        if self._loopback and not names_this_machine(headers.get("host", "")):
            return PlainTextResponse("This address is not the dashboard's.\n", 421)
        if self._token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and self._is_token(given):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            # One slash: a path that begins with two would be the address of another machine.
            path = quote("/" + scope["path"].lstrip("/"))
            answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax", path="/")
            return answer
        if self._is_token(self._kept(headers)):
            return None
        return PlainTextResponse(_NO_TOKEN, 401)

    def _kept(self, headers: dict[str, str]) -> str:
        # Not http.cookies, which gives up at the first odd cookie: those of all programs of this machine come along.
        return cookie_parser(headers.get("cookie", "")).get(self._cookie, "")

    def _is_token(self, text: str) -> bool:
        return self._token is not None and secrets.compare_digest(text.encode(), self._token.encode())
