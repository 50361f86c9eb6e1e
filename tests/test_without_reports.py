"""The packages `report` and `dashboard` can be deleted, and nothing else misses them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# All in one process: what takes longest is to import torch.
SCRIPT = """
import importlib, json, pkgutil, sys
from pathlib import Path

import httpx2 as httpx
from transformers import AutoTokenizer
from typer.testing import CliRunner

import selfaug
from selfaug.cli.main import app

model, rows, copied, run = sys.argv[1:]
assert Path(selfaug.__file__).is_relative_to(copied), selfaug.__file__

def selfaug_command(*arguments, exit_code=0):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == exit_code, (arguments, result.output, result.exception)
    return result

for command in ("train", "evaluate", "compare", "balance", "assess", "demo", "serve", "report"):
    selfaug_command(command, "--help")

trained = selfaug_command(
    "train", "--model", model, "--train", rows, "--eval", rows, "--output", run, "--steps", "1", "--device", "cpu",
    "--set", "selfaug.monitor_prompts=0",
)
asked = selfaug_command(
    "evaluate", run, "--level", "1", "--general-items", "2", "--task-items", "2", "--max-new-tokens", "2",
    "--device", "cpu",
)
assert "this installation makes no pages; the record is there." in asked.stderr
assert "page:" not in asked.stdout
assert "task (exact)" in asked.stdout
assert json.loads(Path(run, "evaluation.json").read_text())["data"]["suites"]["general"]["items"] == 2
assert not Path(run, "report.html").exists()
refused = selfaug_command("report", run, exit_code=2)
assert "this installation makes no reports" in refused.stderr, refused.stderr

for package in ("serving", "monitoring", "phases", "cli", "wording"):
    found = importlib.import_module(f"selfaug.{package}")
    for module in pkgutil.walk_packages(found.__path__, f"selfaug.{package}."):
        importlib.import_module(module.name)

from serving_fixtures import KEY, Running, served_by, tiny_pair
from selfaug.serving.app import create_app
from selfaug.serving.embedded import EmbeddedEngine
from selfaug.serving.keys import ApiKeys

tokenizer = AutoTokenizer.from_pretrained(model)
engine = EmbeddedEngine(tiny_pair(tokenizer), None, tokenizer, max_batch=2, max_waiting=2)
served = served_by(engine, tokenizer)
server = Running(create_app(served, keys=ApiKeys.of(KEY), log=lambda line: None), served.readiness)
answer = httpx.post(
    f"{server.url}/v1/completions",
    json={"model": "champion", "prompt": "the", "max_tokens": 2},
    headers={"authorization": f"Bearer {KEY}"},
    trust_env=False,
    timeout=30,
)
server.stop()
engine.close()
assert answer.status_code == 200, answer.text
assert not [name for name in sys.modules if name.startswith(("selfaug.report", "selfaug.dashboard"))]
print("all of it works")
"""


def test_without_its_reports_selfaug_trains_evaluates_and_serves(
    tiny_model_dir: Path, tiny_rows: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "src"
    shutil.copytree(ROOT / "src", copied, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.rmtree(copied / "selfaug" / "report")
    shutil.rmtree(copied / "selfaug" / "dashboard", ignore_errors=True)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    paths = os.pathsep.join(str(path) for path in (copied, ROOT / "tests" / "serving"))
    result = subprocess.run(
        [
            sys.executable,
            str(script),
            str(tiny_model_dir),
            str(tiny_rows),
            str(copied),
            str(tmp_path / "run"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
            "SELFAUG_CACHE": str(tmp_path / "cache"),
        },
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "all of it works"
