"""`selfaug serve` as a process: its key, its messages, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from test_main import libraries_as_they_were, run

from selfaug.phases.serve import server_keys

__all__ = ["libraries_as_they_were"]  # a fixture of every test


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "selfaug", "serve", *arguments, "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def told(process: subprocess.Popen[str], beginning: str) -> str:
    """The first line of stderr that begins so."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(beginning):
            return line.strip()
    pytest.fail(f"ended without {beginning!r}: {seen}")


def test_a_server_from_its_key_to_its_end(copied_run: Path) -> None:
    _, old = server_keys(copied_run)
    process = start(str(copied_run), "--new-key", "--keep-old-key", "24", "--keep-alive", "1")
    until = told(process, "the key before is taken as well, until ")
    assert re.search(r"until \d{4}-\d\d-\d\d \d\d:\d\d UTC\.$", until)
    url = told(process, "listening: ").removeprefix("listening: ").partition(";")[0]
    assert process.stdout is not None
    key = process.stdout.readline().strip()
    assert key.startswith("sk-selfaug-")
    assert key != old
    assert httpx.get(f"{url}/models", trust_env=False).status_code == 401
    for one in (old, key):
        headers = {"authorization": f"Bearer {one}"}
        assert httpx.get(f"{url}/models", headers=headers, trust_env=False).status_code == 200
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as kept:
        kept.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        while kept.recv(4096):  # it ends a second after the answer
            pass
    body = {"model": "champion", "prompt": "the", "max_tokens": 200, "stream": True}
    with httpx.stream(
        "POST", f"{url}/completions", json=body, headers=headers, trust_env=False, timeout=60
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]", "what runs ends well"
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert log.splitlines()[-1] == "stopped: what ran has ended."
    requests = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [one["status"] for one in requests][-1] == 200
    assert key not in log
    assert key not in "".join(
        file.read_text(errors="replace") for file in copied_run.rglob("*") if file.is_file()
    )


def test_a_signal_while_it_starts_ends_it(copied_run: Path) -> None:
    process = start(str(copied_run), SELFAUG_API_KEY="of my own, long enough")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM, 143, 130)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-key", "--host", "0.0.0.0"], "anyone who reaches this machine"),
        (["--max-model-len", "100000"], "more than the model's 256 tokens"),
        (["--prepared", "nowhere"], "nowhere has not been prepared"),
        (["--device", "tpu"], "not a device"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(finished_run: Path, arguments: list[str], message: str) -> None:
    result = run("serve", str(finished_run), "--port", "0", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1
    assert "Hint: " in result.stderr
    assert result.stdout == ""
    assert not (finished_run / "serving").exists(), "a key that nobody has seen"


def test_another_key_beside_one_of_the_users_own_is_refused(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFAUG_API_KEY", "of my own, long enough")
    result = run("serve", str(finished_run), "--new-key")
    assert result.exit_code == 2
    assert "another one would not be taken" in " ".join(result.stderr.split())


def test_an_old_key_is_kept_beside_a_new_one_only(finished_run: Path) -> None:
    result = run("serve", str(finished_run), "--keep-old-key", "24")
    assert result.exit_code == 2
    assert "--keep-old-key without --new-key" in result.stderr
    assert not (finished_run / "serving").exists()


def test_a_taken_port_leaves_the_key_as_it_is(copied_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("serve", str(copied_run), "--port", port, "--new-key")
    assert result.exit_code == 1
    assert f"can't listen on 127.0.0.1:{port}" in result.stderr
    assert result.stdout == ""
    assert not (copied_run / "serving").exists(), "a key that nobody can use"


def test_there_is_no_run(tmp_path: Path) -> None:
    result = run("serve", str(tmp_path / "nothing"))
    assert result.exit_code == 2
    assert "is not a selfaug run" in result.stderr
