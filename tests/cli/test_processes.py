"""What only a process of its own shows: signals, kills, streams, start-up."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from quiet_libraries import libraries_as_before
from selfaug.cli.main import app
from selfaug.config import TrainConfig, dump_config
from selfaug.records import read_lines, read_record
from selfaug.rundir import RunDir

STEPS = 40


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "selfaug", *arguments]


def start(*arguments: str) -> subprocess.Popen[str]:
    # A group of its own: what the terminal would send on Ctrl-C goes to it alone.
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for_lines(process: subprocess.Popen[str], file: Path, count: int) -> None:
    """Wait until training has logged so many steps."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if file.exists() and len(file.read_bytes().splitlines()) >= count:
            return
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {process.communicate()}")
        time.sleep(0.005)
    process.kill()
    pytest.fail("no step within two minutes")


@pytest.fixture(scope="module")
def arguments(tiny_model_dir: Path, tiny_rows: Path) -> list[str]:
    given = ["--model", str(tiny_model_dir), "--train", str(tiny_rows), "--learning-rate", "1e-2"]
    given += ["--batch-size", "2", "--gradient-accumulation", "2", "--steps", str(STEPS), "--save-steps", "4"]
    return [*given, "--set", "lora.dropout=0.1"]  # dropout: the random state has to be resumed too


def test_killed_interrupted_and_resumed_gives_what_an_uninterrupted_run_gives(
    tmp_path: Path, arguments: list[str]
) -> None:
    whole = start("train", *arguments, "--output", str(tmp_path / "whole"), "--json")
    cut = RunDir(tmp_path / "cut")

    killed = start("train", *arguments, "--output", str(cut.path))
    wait_for_lines(killed, cut.metrics, 6)
    killed.kill()
    killed.communicate()
    assert not cut.is_complete()
    assert cut.latest_complete_checkpoint() is not None

    stopped = start("train", "--resume", "--output", str(cut.path))
    wait_for_lines(stopped, cut.metrics, 12)
    stopped.send_signal(signal.SIGINT)
    _, told = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, told
    assert f"selfaug train --resume --output {cut.path}" in told
    assert "Traceback" not in told
    at = read_lines(cut.metrics)[-1]["step"]
    assert at < STEPS
    assert cut.latest_complete_checkpoint() == cut.checkpoints / f"checkpoint-{at}"

    resumed = start("train", "--resume", "--output", str(cut.path))
    shown, told = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, told
    assert f"steps           {STEPS}" in shown
    printed, told = whole.communicate(timeout=120)
    assert whole.returncode == 0, told
    record = json.loads(printed)  # nothing but the result on stdout; and on stderr, nothing but our own
    # A stage that takes less than ten seconds may say nothing of its progress.
    # The cache ("the reference cache takes ...") is built by the first of both, if it was not there before.
    said = {line.split()[0] for line in told.splitlines()} - {"reference", "the"}
    assert said - {"general"} == {"reading", "loading", "training", "drift", "evaluating"}
    assert record["steps"] == STEPS

    one, other = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "cut")
    )
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    lines = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    # The interruption made a checkpoint of its own, and so one drift more.
    drifts = [{line["step"]: line["general_drift"] for line in of if "general_drift" in line} for of in lines]
    assert drifts[0] != {}
    assert drifts[0].items() <= drifts[1].items()
    lines = [[line for line in of if "nll" in line] for of in lines]
    assert [line["step"] for line in lines[1]] == list(range(1, STEPS + 1))
    for name in ("nll", "alignment_loss", "alpha", "learning_rate", "num_tokens"):
        assert [line[name] for line in lines[0]] == [line[name] for line in lines[1]], name


def test_ctrl_c_saves_a_checkpoint_where_the_reader_of_the_output_is_gone(
    tmp_path: Path, arguments: list[str]
) -> None:
    """As under `2>&1 | tee log`: Ctrl-C ends tee first."""
    run = RunDir(tmp_path / "run")
    reader, writer = os.pipe()
    process = subprocess.Popen(
        command("train", *arguments, "--set", "train.save_steps=40", "--output", str(run.path)),
        stdout=writer,
        stderr=writer,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    os.close(writer)
    wait_for_lines(process, run.metrics, 3)
    os.close(reader)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    checkpoint = run.latest_complete_checkpoint()
    assert checkpoint is not None
    at = read_lines(run.metrics)[-1]["step"]
    assert (at < STEPS, checkpoint.name) == (True, f"checkpoint-{at}")


def test_two_processes_of_a_launcher_are_one_run(
    tmp_path: Path, tiny_model_dir: Path, tiny_rows: Path
) -> None:
    given = ["train", "--model", str(tiny_model_dir), "--train", str(tiny_rows), "--eval", str(tiny_rows)]
    given += ["--epochs", "3", "--device", "cpu", "--dtype", "float32", "--learning-rate", "1e-2"]
    given += [
        "--set",
        f"selfaug.reference_cache_dir={tmp_path / 'cache'}",
        "--set",
        "selfaug.monitor_prompts=2",
    ]
    given += ["--gradient-accumulation", "1", "--save-steps", "4", "--evaluate", "fast"]
    given += ["--set", "evaluation.level=1", "--set", "evaluation.max_new_tokens=2"]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "selfaug"]
    both = subprocess.run(
        [sys.executable, "-m", *launcher, *given, "--batch-size", "2", "--output", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert both.returncode == 0, both.stderr
    with libraries_as_before():
        one = CliRunner().invoke(app, [*given, "--batch-size", "4", "--output", str(tmp_path / "one")])
    assert one.exit_code == 0, one.stderr
    assert both.stdout.count("steps           18 in") == 1  # the first process speaks
    assert both.stderr.count("loading the model") == one.stderr.count("loading the model") == 2
    nll = [
        [line["nll"] for line in read_lines(tmp_path / name / "metrics.jsonl") if "nll" in line]
        for name in ("one", "two")
    ]
    assert nll[1] == pytest.approx(nll[0], rel=1e-3)
    record = json.loads((tmp_path / "two" / "record.json").read_text(encoding="utf-8"))["data"]
    assert record["environment"]["processes"] == 2
    assert RunDir.open(tmp_path / "two").latest_complete_checkpoint() is not None
    # Once both have trained, the first process evaluates.
    assert both.stdout.count("task (exact)") == one.stdout.count("task (exact)") == 1
    asked = [
        read_record(tmp_path / name / "evaluation.json", "evaluation")["suites"] for name in ("one", "two")
    ]
    assert asked[0].keys() == asked[1].keys() == {"task", "general"}
    for suite in asked[0]:
        assert asked[0][suite]["base"] == asked[1][suite]["base"]
    files = [{entry.name for entry in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]


STOPS_ONE = """
import os, signal, sys
from pathlib import Path
import torch
from selfaug.config import load_config
from selfaug.phases.train import Interrupted, train

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
(folder / f"pid-{rank}").write_text(str(os.getpid()))

def stop(progress):  # steps are told by the first process
    if progress.stage == "training" and progress.done == 3:
        os.kill(int((folder / "pid-1").read_text()), signal.SIGTERM)

try:
    train(load_config(folder / "config.yaml"), on_progress=stop)
except Interrupted as interrupt:
    (folder / f"told-{rank}").write_text(str(interrupt))
torch.distributed.barrier()
os._exit(0)
"""


def test_a_signal_to_one_of_two_processes_stops_both_with_a_checkpoint(
    tmp_path: Path, settings: Callable[..., TrainConfig]
) -> None:
    config = settings(tmp_path / "run", "train.steps=400", "train.save_steps=400", "model.device=cpu")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "script.py").write_text(STOPS_ONE)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    both = subprocess.run(
        [sys.executable, "-m", *launcher, str(tmp_path / "script.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert both.returncode == 0, both.stderr
    checkpoint = RunDir.open(tmp_path / "run").latest_complete_checkpoint()
    assert checkpoint is not None
    step = int(checkpoint.name.rpartition("-")[2])
    assert 3 <= step < 400
    for rank in (0, 1):
        assert (
            (tmp_path / f"told-{rank}").read_text().startswith(f"stopped at step {step} of 400; a checkpoint")
        )


def test_help_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from selfaug.cli.main import app\n"
        "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0\n"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets', 'pydantic_core', 'numpy'} "
        "& set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # Typer's own coercion uses pydantic; what takes seconds is torch and what stands on it.
    assert set(json.loads(result.stdout.replace("'", '"'))) <= {"pydantic_core"}, result.stderr


def test_a_reader_that_goes_away_is_no_error(tiny_model_dir: Path, tiny_rows: Path) -> None:
    text = " ".join(
        command("preview", "--model", str(tiny_model_dir), "--train", str(tiny_rows), "--rows", "24")
    )
    result = subprocess.run(f"{text} | head -n 1", shell=True, capture_output=True, text=True)
    assert result.stdout == "Legend:\n"
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_a_full_disk_is_one_clear_error(tmp_path: Path, tiny_model_dir: Path, tiny_rows: Path) -> None:
    arguments = ["train", "--model", str(tiny_model_dir), "--train", str(tiny_rows), "--steps", "2"]
    # No file above 100 kB: the optimizer's state and then the disk are "full" at the first checkpoint. (Python ignores
    # the signal that would end the process.)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most[1]))
        with libraries_as_before():
            result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "run")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert result.exit_code == 1
    assert "the disk is full" in result.stderr, result.stderr
    assert "--resume" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "record.json").exists()
