"""A data set of the hub, loaded over the hub's own protocol from a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REVISION = "0" * 40
FILES = {
    "train.jsonl": b'{"prompt": "one", "completion": "a"}\n{"prompt": "two", "completion": "b"}\n',
    "test.jsonl": b'{"prompt": "three", "completion": "c"}\n',
}


class Hub(BaseHTTPRequestHandler):
    """Knows the data set owner/name, of two files."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if path.endswith(f"/tree/{REVISION}"):
            listed = [
                {"type": "file", "path": one, "size": len(data), "oid": REVISION}
                for one, data in FILES.items()
            ]
            self.reply(200, json.dumps(listed).encode())
        elif path.startswith("/api/datasets/owner/name") and "/tree/" not in path:
            described = {
                "id": "owner/name",
                "sha": REVISION,
                "siblings": [{"rfilename": one} for one in FILES],
            }
            self.reply(200, json.dumps(described).encode())
        elif name in FILES:
            self.reply(200, FILES[name], ETag=f'"{name}"')
        else:  # no card, no script
            self.reply(404, b"", **{"X-Error-Code": "EntryNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": REVISION, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_data_set_is_loaded_by_its_name(hub: str, tmp_path: Path) -> None:
    # In a process of its own: the libraries read where the hub is when they are imported.
    script = (
        "import json; from selfaug.data import load_rows\n"
        "rows = load_rows(['owner/name', 'owner/name@test']).rows\n"
        "print(json.dumps([[row.id, row.prompt, row.completion] for row in rows]))"
    )
    there = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    there |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **there},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ["owner/name/train:1", "one", "a"],
        ["owner/name/train:2", "two", "b"],
        ["owner/name/test:1", "three", "c"],
    ]
