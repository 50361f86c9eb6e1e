"""Who may see the dashboard, and the headers of its answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from selfaug.dashboard.access import Access
from selfaug.dashboard.app import dashboard_app
from selfaug.dashboard.library import Library

TOKEN = "only-for-tests_-1"
COOKIE = {"cookie": f"selfaug-8321={TOKEN}"}


def app(tmp_path: Path, **how: Any) -> TestClient:
    wanted = {"token": TOKEN, "port": 8321, **how}
    return TestClient(
        dashboard_app(Library(tmp_path), **wanted),
        base_url="http://127.0.0.1:8321",
        follow_redirects=False,
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    return app(tmp_path_factory.mktemp("empty"))


def get(client: TestClient, path: str, **headers: str) -> httpx.Response:
    client.cookies.clear()
    return client.get(path, headers=headers)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/run/x", "/style.css", "/static/icon.svg", "/nothing", "/?token=", "/?token=wrong", f"/?TOKEN={TOKEN}",
    ],
)  # fmt: skip
def test_without_the_token_nothing_is_shown(kept: TestClient, path: str) -> None:
    answer = get(kept, path)
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/plain")
    assert TOKEN not in answer.text
    assert "set-cookie" not in answer.headers


def test_the_address_with_the_token_gives_a_cookie_and_leaves_the_token_out(kept: TestClient) -> None:
    answer = get(kept, f"/roi?workers=9&token={TOKEN}&comparison=a%26b")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/roi?workers=9&comparison=a%26b"
    assert answer.headers["cache-control"] == "no-store"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"selfaug-8321={TOKEN};")
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    assert kept.get("/").status_code == 200, "the client has kept the cookie"
    assert TOKEN not in kept.get("/").text
    assert get(kept, "/").status_code == 401


@pytest.mark.parametrize(
    ("cookies", "status"),
    [
        (f"selfaug-8321={TOKEN}", 200),
        (f'a="2|1:0|x, y"; {{"b": 1}}; c d=e; @=; selfaug-8321={TOKEN}; =; z', 200),
        (f"selfaug-8000=other; selfaug-8321={TOKEN}", 200),
        (f"selfaug-8000={TOKEN}", 401),
        ("selfaug-8321=wrong", 401),
        ("selfaug-8321=", 401),
        ("selfaug-8321=\xff\xfe", 401),
        (f"selfaug-8321={TOKEN}x", 401),
    ],
)
def test_the_cookie_is_found_among_those_of_all_programs_of_this_machine(
    kept: TestClient, cookies: str, status: int
) -> None:
    kept.cookies.clear()
    assert kept.get("/words", headers={b"cookie": cookies.encode("latin-1")}).status_code == status


def test_a_wrong_token_beside_the_right_cookie_changes_nothing(kept: TestClient) -> None:
    assert get(kept, "/words?token=wrong", **COOKIE).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "ODD"])
def test_it_only_shows(kept: TestClient, method: str) -> None:
    for token in ("", f"?token={TOKEN}"):
        kept.cookies.clear()
        answer = kept.request(method, f"/{token}", headers=COOKIE)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_head_is_answered_as_get_is(kept: TestClient) -> None:
    for path, status in (("/", 200), ("/run/nothing", 404), ("/static/icon.svg", 200)):
        kept.cookies.clear()
        assert kept.head(path, headers=COOKIE).status_code == status


HOSTS = [
    ("127.0.0.1:8321", 200), ("localhost:8321", 200), ("LOCALHOST", 200), ("[::1]:8321", 200), ("[::1]", 200),
    ("127.0.0.1", 200), ("127.8.9.10:1", 200), ("localhost:9999", 200),
    ("evil.example:8321", 421), ("127.0.0.1.evil.example", 421), ("localhost.evil.example:8321", 421),
    ("evil.example#localhost", 421), ("x@localhost", 421), ("localhost/", 421), ("192.168.1.1:8321", 421),
    ("0.0.0.0:8321", 421), ("[::]:8321", 421), ("[fe80::1]", 421), ("", 421), ("999.1.1.1", 421), ("[:::]", 421),
]  # fmt: skip


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_a_page_elsewhere_cannot_have_its_name_point_here(kept: TestClient, host: str, status: int) -> None:
    assert get(kept, "/words", host=host, **COOKIE).status_code == status


def test_other_machines_may_look_when_they_are_listened_to(tmp_path: Path) -> None:
    client = app(tmp_path, loopback=False)
    assert get(client, "/words", host="build-7.example:8321", **COOKIE).status_code == 200
    assert get(client, "/words", host="[::1", **COOKIE).status_code == 200, "an odd host is no error"
    assert get(client, "/words", host="build-7.example:8321").status_code == 401


def test_headers_stand_on_every_answer(tmp_path: Path) -> None:
    client = app(tmp_path)
    answers = [
        get(client, "/", **COOKIE),
        get(client, "/nothing", **COOKIE),
        get(client, "/run/%0A", **COOKIE),
        get(client, "/style.css", **COOKIE),
        get(client, "/static/htmx-4.0.1.min.js", **COOKIE),
        get(client, "/static/nothing", **COOKIE),
        get(client, "/static/..%2Fapp.py", **COOKIE),
        get(client, "/roi?workers=x", **COOKIE),
        get(client, "/"),
        get(client, "/", host="evil.example"),
        get(client, f"/?token={TOKEN}"),
        client.post("/"),
    ]
    assert [one.status_code for one in answers] == [
        200,
        404,
        404,
        200,
        200,
        404,
        404,
        200,
        401,
        421,
        303,
        405,
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers.get_list("cache-control", split_commas=False) in (
            ["no-store"], ["max-age=60"], ["max-age=86400"],
        )  # fmt: skip
    texts = [
        one
        for one in answers
        if one.headers.get("content-type", "text/plain")[:9] in ("text/html", "text/plai")
    ]
    assert all(one.headers["cache-control"] == "no-store" for one in texts)


ROUND_TRIP = st.text(max_size=30).map(lambda text: "/" + text)


@given(ROUND_TRIP)
def test_the_redirect_stays_here(path: str) -> None:
    """Whatever the path: the answer names a path of this server, and the same one."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nothing(*_: Any) -> None:
        raise AssertionError

    scope: Any = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": f"token={TOKEN}".encode(),
        "headers": [(b"host", b"localhost:8321")],
    }
    asyncio.run(Access(nothing, token=TOKEN, port=8321, loopback=True)(scope, nothing, send))
    location = dict(sent[0]["headers"])[b"location"].decode("ascii")
    # As a browser reads it: a backslash is a slash, and ends of lines are left out.
    assert location.startswith("/")
    assert location[1:2] not in ("/", "\\", "\n", "\r", "\t")
    assert urlsplit(urljoin("http://localhost:8321/", location)).netloc == "localhost:8321"
    assert unquote(location) == "/" + path.lstrip("/")


@pytest.mark.parametrize(
    "path", ["//evil.example", "///evil.example/x", "/%2F/evil.example", "/%5Cevil.example", "//%5C/evil.example"]
)  # fmt: skip
def test_two_slashes_lead_nowhere_else(kept: TestClient, path: str) -> None:
    kept.cookies.clear()
    answer = kept.get(f"http://127.0.0.1:8321{path}?token={TOKEN}")
    assert answer.status_code == 303
    assert answer.headers["location"].lstrip("/").startswith(("evil.example", "%5C"))
    assert not answer.headers["location"].startswith(("//", "/\\"))


def test_without_a_token_everyone_on_this_machine_looks(tmp_path: Path) -> None:
    client = app(tmp_path, token=None)
    assert get(client, "/").status_code == 200
    assert get(client, "/?token=an-old-one").status_code == 200
    assert get(client, "/", host="evil.example").status_code == 421
    assert client.post("/").status_code == 405


def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nothing(*_: Any) -> None:
        raise AssertionError

    for kind in ("websocket", "lifespan"):
        asyncio.run(Access(nothing, token=None, port=1, loopback=True)({"type": kind}, nothing, send))
    assert sent == [{"type": "websocket.close"}]
