"""`selfaug dashboard` as a process: its address, its messages, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx2 as httpx
import pytest
from typer.testing import CliRunner, Result

from report_records import EVALUATION, write_run
from selfaug.cli.main import app
from selfaug.serving.connections import LimitedConnection
from selfaug.serving.http_server import EndedBySignals


@contextmanager
def started(*arguments: str, before: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address that it prints."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{before}\nfrom selfaug.cli.main import main; main()",
            "dashboard",
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), process.stderr.read() if process.stderr else ""
        yield process, address
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["dashboard", *arguments])


# As a shell's & leaves it.
IGNORED = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


def test_from_its_address_to_its_end(tmp_path: Path) -> None:
    write_run(tmp_path / "first", evaluation=EVALUATION)
    name = "ü%2F? #%0A"
    write_run(tmp_path / name)
    with started(str(tmp_path), "--port", "0", before=IGNORED) as (process, address):
        url, _, token = address.partition("?token=")
        assert len(token) >= 32
        with httpx.Client(trust_env=False, timeout=20) as browser:
            assert browser.get(url).status_code == 401
            answer = browser.get(address)
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
            page = browser.get(url)
            assert page.status_code == 200
            assert "first" in page.text
            assert token not in page.text
            assert browser.get(f"{url}run/first").status_code == 200
            assert browser.get(f"{url}run/{quote(name)}").status_code == 200
            assert f'href="/run/{quote(name)}"' in page.text
            # The link of a page with the token leads to the same page.
            linked = browser.get(f"{url}run/{quote(name)}?token={token}")
            assert linked.headers["location"] == f"/run/{quote(name)}"
            assert browser.get(url, headers={"host": "evil.example"}).status_code == 421
            assert browser.head(f"{url}words").content == b""
            # Its connection is still open: that keeps nobody waiting.
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, log = process.communicate(timeout=20)
            assert time.monotonic() - began < 10
    assert process.returncode == 0
    assert out == ""
    assert log.splitlines() == [
        f"reading {tmp_path} ...",
        f"2 entries in {tmp_path}. Ctrl-C ends it.",
        "stopped.",
    ]


def test_without_a_token_and_ended_by_sigterm(tmp_path: Path) -> None:
    with started(str(tmp_path), "--port", "0", "--no-token", "--host", "127.0.0.2") as (process, address):
        assert "token" not in address
        assert httpx.get(address, trust_env=False).status_code == 200
        assert httpx.get(address, trust_env=False, headers={"host": "evil.example"}).status_code == 421
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost", "http://localhost:"), ("::1", "http://[::1]:"),
        ("0.0.0.0", "http://127.0.0.1:"), ("::", "http://[::1]:"),
    ],
)  # fmt: skip
def test_addresses_by_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, address: str) -> None:
    served = []
    monkeypatch.setattr(EndedBySignals, "run", lambda self, sockets: served.append((self.config, sockets)))
    result = run(str(tmp_path), "--host", host, "--port", "0")
    if "can't listen" in result.stderr:
        pytest.skip("this machine has no such address")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(address)
    ((config, (listening,)),) = served
    listening.close()
    # Whoever reaches the address, without the token too, can't hold connections for ever.
    assert config.http.func is LimitedConnection
    access = config.app
    everywhere = host in ("0.0.0.0", "::")
    assert access._loopback == (not everywhere)
    assert ("From other machines" in result.stderr) == everywhere
    assert access._token is not None


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, code, message in (
            ([str(tmp_path / "nothing")], 2, "is not a folder"),
            ([str(tmp_path), "--no-token", "--host", "0.0.0.0"], 2, "could read your runs"),
            ([str(tmp_path), "--no-token", "--host", "build-7.example"], 2, "could read your runs"),
            ([str(tmp_path), "--port", str(taken.getsockname()[1])], 1, "something else listens there"),
            ([str(tmp_path), "--host", "192.0.2.1"], 1, "--host takes an address of this machine"),
        ):
            result = run(*arguments)
            assert result.exit_code == code, result.stderr
            assert message in result.stderr
            assert result.stderr.count("error: ") == 1
            assert "Hint: " in result.stderr
            assert result.stdout == ""
    assert run(str(tmp_path), "--port", "70000").exit_code == 2


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("starlette", "the dashboard needs starlette, which is not installed"),
        ("uvicorn", "the dashboard needs uvicorn, which is not installed"),
        ("selfaug.dashboard.app", "this installation has no dashboard"),
    ],
)
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    # As if they had never been imported; all of them come back.
    for name in list(sys.modules):
        if name == missing or name.startswith(
            (f"{missing}.", "selfaug.dashboard.app", "selfaug.dashboard.access")
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    result = run(str(tmp_path))
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Hint: " in result.stderr


def test_help_has_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "Example: selfaug dashboard runs" in result.stdout
