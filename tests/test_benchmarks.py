"""Each benchmark in its quickest form: it runs, names all that it compares, and its ratios are numbers."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import ingest, load
from benchmarks.variants import VARIANTS
from typer.testing import CliRunner

from quiet_libraries import libraries_as_before
from selfaug.cli.main import app
from selfaug.model.loading import DEMO_MODEL
from selfaug.retrieval.read_document import read_document

ROOT = Path(__file__).parents[1]


def report(module: str, output: Path, *arguments: str) -> tuple[str, dict[str, object]]:
    """The report of a benchmark, printed and written alike, and its JSON."""
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{module}",
        *arguments,
        "--threads",
        "1",
        "--output",
        str(output),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output.read_text(encoding="utf-8")
    return done.stdout, json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))


def column(text: str, name: str) -> dict[str, float]:
    """First number of a column, by the first cell of each row."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")
    ]
    place = lines[0].index(name)
    values = {line[0]: float(re.split(r"[ (]", line[place])[0]) for line in lines[2:]}
    assert all(math.isfinite(value) and value > 0 for value in values.values()), values
    return values


@pytest.mark.benchmark
def test_step_compares_all_variants(tmp_path: Path) -> None:
    text, data = report(
        "step", tmp_path / "step.md", "--shape", "tiny", "--dtype", "float32", "--rounds", "1", "--steps", "2"
    )
    ratios = column(text, "× `alpha=0`")
    assert len(ratios) == 7
    assert ratios["`alpha=0`"] == 1.0
    assert column(text, "× trl").keys() == ratios.keys()
    floor = column(text, "matrix products × `alpha=0`")
    assert floor["`alpha=0`"] == 1.0
    assert (
        floor["SelfAug, cached, 25 % of positions"] < floor["SelfAug, cached"] < floor["SelfAug, adapter off"]
    )
    assert column(text, "peak memory, GB").keys() == ratios.keys()
    assert floor["SelfAug, adapter off, 25 % of rows"] < floor["SelfAug, adapter off"]
    assert list(data["results"]) == list(VARIANTS)  # type: ignore[call-overload]


@pytest.mark.benchmark
def test_run_includes_the_cache(tmp_path: Path) -> None:
    text, data = report(
        "run",
        tmp_path / "run.md",
        *("--shape", "tiny", "--dtype", "float32", "--rows", "4", "--epochs", "1"),
        *("--variants", "alpha0", "adapter_off", "cache"),
    )
    assert len(column(text, "× `alpha=0`")) == 3
    built = {row["variant"]: row["cache_bytes"] for row in data["results"]}  # type: ignore[attr-defined]
    assert built == {"alpha0": 0, "adapter_off": 0, "cache": 4 * 56 * 64 * 4}


@pytest.mark.benchmark
def test_generation_gives_the_same_answers(tiny_model_dir: Path, tmp_path: Path) -> None:
    text, data = report(
        "generation",
        tmp_path / "generation.md",
        *("--model", str(tiny_model_dir), "--prompts", "5", "--batch-sizes", "2", "5", "--rounds", "1"),
    )
    assert column(text, "× one by one").keys() == {"one by one", "batches of 2", "batches of 5"}
    assert {row["same"] for row in data["results"].values()} == {5}  # type: ignore[attr-defined]


@pytest.mark.benchmark
def test_ingest_has_every_page_in_the_index(tmp_path: Path) -> None:
    size = ("--pages", "20", "--pages-per-document", "10", "--formats", ".pdf", ".xlsx")
    text, data = report("ingest", tmp_path / "ingest.md", *size)
    for name in ("pages a second", "peak memory, MB", "CPU ms a page", "again, unchanged, seconds"):
        assert column(text, name).keys() == {".pdf", ".xlsx"}
    assert {found["documents"] for found in data["results"].values()} == {2}  # type: ignore[attr-defined]


@pytest.mark.parametrize("ending", list(ingest.WRITERS))
def test_ingest_writes_documents_that_are_read_whole(tmp_path: Path, ending: str) -> None:
    ingest._write(tmp_path, ending, pages=12, per_document=12)
    (file,) = tmp_path.iterdir()
    document = read_document(file, file.name)
    text = "\n".join(block.text for block in document.blocks)
    assert set(re.findall(r"Section \d+", text)) == {f"Section {page}" for page in range(12)}
    assert "North" in text
    assert "11.3" in text  # of the table on page 10
    assert 12 * 450 < len(re.findall(r"[a-z]+", text)) < 12 * 600
    assert document.missing == ""


@pytest.mark.benchmark
def test_query_finds_what_rank_bm25_finds(tmp_path: Path) -> None:
    pytest.importorskip("rank_bm25")
    text, data = report(
        "query", tmp_path / "query.md", "--chunks", "300", "--questions", "20", "--rounds", "1"
    )
    assert column(text, "× selfaug").keys() == {"selfaug", "rank_bm25"}
    assert data["same"]["top"] > 0.8  # type: ignore[index]
    assert data["same"]["best"] > 0.9  # type: ignore[index]


@pytest.mark.benchmark
def test_dashboard_asks_for_every_page(tmp_path: Path) -> None:
    size = ("--runs", "4", "--samples", "80", "--metrics", "80", "--rounds", "1")
    text, data = report("dashboard", tmp_path / "dashboard.md", *size)
    assert len(column(text, "kB")) == len(data["rows"]) > 10  # type: ignore[arg-type]
    assert 50 < float(str(data["megabytes"])) < 300


@pytest.mark.benchmark
def test_loss_has_the_error_of_each_method(tmp_path: Path) -> None:
    pytest.importorskip("trl.kernels.chunked_divergence", exc_type=ImportError)
    text, data = report(
        "loss",
        tmp_path / "loss.md",
        *("--sizes", "tiny", "--dtypes", "float32", "--rounds", "1", "--repeats", "1"),
        *("--methods", "selfaug", "trl", "naive"),
    )
    assert column(text, "× selfaug").keys() == {"selfaug", "trl", "naive"}
    for row in data["results"]:  # type: ignore[attr-defined]
        assert row["0.05"]["worst"] < 2e-6 + 1e-5 * row["0.05"]["truth"], row
        assert row["0.05"]["gradient"] < 2e-5, row


@pytest.mark.benchmark
def test_monitoring_counts_false_alarms_and_finds_changes(finished_run: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    command = [sys.executable, "-m", "benchmarks.prompt_drift", "--run", str(finished_run), "--market", "60"]
    done = subprocess.run(
        [*command, "--general", "20", "--output", str(prompts)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    domains = json.loads(prompts.read_text(encoding="utf-8"))["domains"]
    assert {name: len(rows) for name, rows in domains.items()} == {"market reports": 60, "general": 20}
    assert all(
        tokens > 10 and nats > 0 and 0 <= new <= 1 for rows in domains.values() for tokens, nats, new in rows
    )
    few = ("--months", "1", "--per-hour", "20", "--prompts", str(prompts))
    text, data = report("monitoring", tmp_path / "monitoring.md", *few)
    assert column(text, "months") == {"log-normal": 1.0, "seasonal": 1.0, "measured": 1.0}
    found = data["results"]["log-normal"][0]["found"]  # type: ignore[index]
    assert found["by"] == "drift"
    assert 20 < found["prompts"] < 400


@pytest.mark.benchmark
def test_demo_settings_are_chosen_on_development_items_and_kept(
    wide_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real model would take minutes here; tests/phases/test_demo.py trains and asks it.
    shutil.copytree(wide_model_dir, tmp_path / "cache" / DEMO_MODEL)
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path / "cache"))
    arguments = [
        *("--alphas", "2", "--boundary", "on", "--seeds", "0", "--steps", "1", "--batch-size", "1"),
        *("--rank", "2", "--anchors", "1", "--task-items", "1", "--general-items", "2"),
        *("--work", str(tmp_path / "work")),
    ]
    text, data = report("demo_settings", tmp_path / "settings.md", *arguments)
    assert column(text, "seeds") == {"2": 1.0}
    (run,) = data["runs"]  # type: ignore[misc]
    assert run["settings"]["half"] == "dev"
    again, _ = report("demo_settings", tmp_path / "settings.md", *arguments)
    assert column(again, "seeds") == {"2": 1.0}
    assert len((tmp_path / "work" / "runs.jsonl").read_text(encoding="utf-8").splitlines()) == 1


@pytest.fixture(scope="module")
def made_run(wide_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the servers' benchmarks make, made here: their two processes would import for ten seconds each."""

    def selfaug(*arguments: str) -> None:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output

    with pytest.MonkeyPatch.context() as patched, libraries_as_before():
        patched.setattr(load, "selfaug", selfaug)
        return load.make_run(tmp_path_factory.mktemp("served"), str(wide_model_dir), "float32")


@pytest.fixture
def served(made_run: Path, wide_model_dir: Path, tmp_path: Path) -> list[str]:
    """Arguments that name the model, and a copy of its run: a watched server writes into it."""
    run = shutil.copytree(made_run, tmp_path / "run")
    return ["--model", str(wide_model_dir), "--run", str(run)]


@pytest.mark.benchmark
def test_gateway_is_compared_with_a_bare_proxy(served: list[str], tmp_path: Path) -> None:
    short = ("--seconds", "0.4", "--rounds", "1", "--tokens", "2")
    text, data = report("gateway", tmp_path / "gateway.md", *served, *short)
    ways = {f"{name}, {mode}" for name in ("bare proxy", "gateway") for mode in ("whole", "stream")}
    assert column(text, "× bare proxy").keys() == column(text, "99 % × bare proxy").keys() == ways
    for found in data["results"].values():  # type: ignore[attr-defined]
        assert all(0 < one["median"] <= one["p99"] for one in found)


@pytest.mark.benchmark
def test_soak_counts_every_request_and_ends_the_server(served: list[str], tmp_path: Path) -> None:
    short = ("--minutes", "0.05", "--requests", "8", "--max-tokens", "2", "--max-batch", "4")
    text, data = report("soak", tmp_path / "soak.md", *served, *short)
    statuses: dict[str, int] = data["statuses"]  # type: ignore[assignment]
    assert statuses["200"] > 0
    assert statuses.keys() <= {"200", "429", "0"}
    assert f"| requests | {sum(statuses.values()):,} |" in text
    assert (data["alive"], data["exit_code"]) == (True, 0)
    assert data["counts"]["offered"] > 0  # type: ignore[index]


@pytest.mark.benchmark
def test_serving_gives_the_same_answers_to_several_clients(served: list[str], tmp_path: Path) -> None:
    short = ("--clients", "1", "2", "--requests", "4", "--max-tokens", "4", "--rounds", "1")
    text, data = report("serving", tmp_path / "serving.md", *served, *short, "--servers", "selfaug, mixed")
    assert text.count("| 4 of 4 |") == 2
    (rounds,) = data["results"]["selfaug, mixed"]  # type: ignore[index]
    assert [one["clients"] for one in rounds] == [1, 2]
    assert all(one["rate"] > 0 and one["median_wait"] > 0 for one in rounds)
