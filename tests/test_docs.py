"""The documentation runs: every shell, Python, YAML and JSONL block of a page, in order, in its quick form."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from quiet_libraries import libraries_as_before
from scripts import script
from selfaug.cli.main import app
from selfaug.config import TrainConfig, dump_config, load_config
from selfaug.data import RetrievalTemplate
from selfaug.eval.suite_files import read_suite
from selfaug.phases import balance_search, method_bench
from selfaug.phases.methods import METHODS
from selfaug.phases.progress import Progress
from selfaug.phases.train import train
from selfaug.prepare_config import load_prepare_config
from selfaug.records import read_record, write_text
from selfaug.rundir import RunDir

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "tutorial.md"]
PAGES += sorted((ROOT / "docs" / "how-to").glob("*.md"))
LINKED = [
    *PAGES,
    *(ROOT / "docs" / name for name in ("README.md", "architecture.md", "case-study.md", "targets.md")),
]
LINKED += sorted((ROOT / "docs" / "details").glob("*.md"))

published = script("docs/published.py")

# ---- the quick form: what is replaced, added and left out, and nothing else

MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen3-0.6B", "EleutherAI/pythia-410m", "SmolLM2-135M-Instruct")
"""Become a tiny random model with a ChatML template."""

ADDED = {
    "selfaug train": ["--steps", "2", "--save-steps", "1", "--device", "cpu"],
    "selfaug train --resume": [],
    "selfaug chat": ["--max-new-tokens", "4", "--device", "cpu"],
    "selfaug serve": ["--port", "0", "--device", "cpu"],
    "selfaug ask": ["--max-new-tokens", "4", "--device", "cpu"],
    "selfaug assess": [
        *(
            "--probe-steps",
            "1",
            "--general-items",
            "2",
            "--task-items",
            "2",
            "--level",
            "1",
            "--device",
            "cpu",
        ),
    ],
    "selfaug realign": [
        *(
            "--steps",
            "2",
            "--general-items",
            "2",
            "--task-items",
            "2",
            "--max-new-tokens",
            "2",
            "--level",
            "1",
        ),
        *("--set", "model.device=cpu"),
    ],
    "selfaug compare": [
        *("--method", "selfaug", "--seed", "0", "--steps", "1", "--general-items", "2", "--task-items", "2"),
        *("--max-new-tokens", "2", "--level", "1", "--set", "model.device=cpu"),
    ],
    "selfaug balance": [
        *("--trials", "2", "--finalists", "1", "--steps", "1", "--general-items", "2", "--task-items", "2"),
        *("--max-new-tokens", "2", "--level", "1", "--set", "model.device=cpu"),
    ],
    "selfaug evaluate": [
        *("--general-items", "2", "--task-items", "20", "--max-new-tokens", "2", "--level", "1"),
        *("--device", "cpu"),
    ],
}
"""Arguments that are added to a command; the longest that fits."""

ADDED_IN_PYTHON = {"SelfAugConfig(": "SelfAugConfig(max_steps=2, "}
"""Likewise."""

NOT_RUN = ("make ", "pip install ", "ollama ", "python LLAMA_CPP/convert_hf_to_gguf.py ")
"""Commands that are left out: they set up, take minutes, or belong to other tools."""

LAUNCHERS = {"accelerate launch": launch_command_parser, "torchrun": get_args_parser}
"""Their own arguments are parsed, and the command that they launch is run in one process."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, also those that are indented in a list."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[2], textwrap.dedent(match[3]), text[: match.start()].count("\n") + 1)
        for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    ]


def commands_of(text: str) -> list[str]:
    """The commands of a shell block; a here-document belongs to its command."""
    commands, lines = [], iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        command = line
        if end := re.search(r"<<'(\w+)'", line):
            for inner in lines:
                command += f"\n{inner}"
                if inner == end[1]:
                    break
        commands.append(command)
    return commands


@pytest.fixture
def working_folder(tmp_path: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What a reader has: rows and recipes. The command line silences libraries; afterwards they are as before."""
    for name in ("rows.jsonl", "dev.jsonl", "test.jsonl"):
        shutil.copy(tiny_rows, tmp_path / name)
    rows = tiny_rows.read_text(encoding="utf-8")
    for name, what in (("new.jsonl", "profit"), ("new-dev.jsonl", "loss")):
        (tmp_path / name).write_text(rows.replace("revenue", what), encoding="utf-8")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path / "cache"))
    with libraries_as_before():
        yield tmp_path


class Servers:
    """What a page starts and lets run; the next ones find it at `address`."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:8000"
        self._running: list[subprocess.Popen[str]] = []

    def start(self, command: str) -> None:
        arguments = [*shlex.split(command)[1:], *ADDED["selfaug serve"]]
        process = subprocess.Popen(
            [sys.executable, "-m", "selfaug", *arguments], stderr=subprocess.PIPE, text=True
        )
        self._running.append(process)
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if found := re.match(r"listening: http://(\S+)/v1;", line):
                self.address = found[1]
                return
        pytest.fail(f"{command}: {told}")

    def start_dashboard(self, command: str) -> None:
        """It answers at the address that it prints, with the token in it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "selfaug", *shlex.split(command)[1:], "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.append(process)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        kept = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with kept.open(address) as answer:
            assert "first" in answer.read().decode()

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
            process.communicate(timeout=60)
            assert process.returncode == 0


@pytest.fixture
def trained_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons train here, from the settings file that their processes get: each would import for ten seconds.

    That a run of its own process is as one of this process is tests/phases/test_own_process.py's to say. One value of
    each knob is tried.
    """
    for name in ("plain", "selfaug"):
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], values=METHODS[name].values[:1]))

    def run(config: TrainConfig, stage: str, on_progress: Callable[[Progress], None]) -> dict[str, Any]:
        run = RunDir(config.run.output)
        if not run.is_complete():
            run.path.parent.mkdir(parents=True, exist_ok=True)
            settings = run.path.with_suffix(".yaml")
            write_text(settings, dump_config(config))
            train(load_config(settings), on_progress=lambda _: None)
            settings.unlink()
        return read_record(run.record, "train")

    for module in (method_bench, balance_search):
        monkeypatch.setattr(module, "train_in_own_process", run)


@pytest.fixture
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_of_the_page_run(
    page: Path,
    wide_model_dir: Path,
    working_folder: Path,
    finished_run: Path,
    servers: Servers,
    trained_here: None,
    short_anchors: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if page.stem in ("resume", "export-to-ollama"):  # they begin with a run that the reader has
        run = RunDir(shutil.copytree(finished_run, working_folder / "runs" / "first"))
        if page.stem == "resume":  # cut off after its last checkpoint but one
            run.record.unlink()
            shutil.rmtree(run.checkpoints / "checkpoint-6")
    blocks = blocks_of(page)
    assert blocks, f"{page.name} has no blocks: is the pattern wrong?"
    monkeypatch.setenv("SELFAUG_API_KEY", "what the first start has shown")
    for block in blocks:
        text = block.text.replace("127.0.0.1:8000", servers.address)
        for name in MODELS:
            text = text.replace(name, str(wide_model_dir))
        place = f"{page.name}, line {block.line}"
        if block.language == "sh":
            for command in commands_of(text):
                if command.startswith("selfaug serve "):
                    servers.start(command)
                elif command.startswith("selfaug dashboard "):
                    servers.start_dashboard(command)
                else:
                    run_command(command.replace("127.0.0.1:8000", servers.address), place)
        elif block.language == "python":
            torch.manual_seed(0)
            for call, replaced in ADDED_IN_PYTHON.items():
                text = text.replace(call, replaced)
            exec(compile(text, place, "exec"), {"__name__": "__main__"})
        elif block.language == "yaml":
            read_settings(text, place)
        elif block.language == "json":  # questions of the reader's own, which the commands then use
            (working_folder / "company.jsonl").write_text(text, encoding="utf-8")
            assert len(read_suite(working_folder / "company.jsonl")) == len(text.splitlines())
        else:
            pytest.fail(f"{place}: a block of {block.language or 'no language'}")
    if page.stem == "resume":
        assert run.is_complete()


def run_command(command: str, place: str) -> None:
    """Run a command of a page in its quick form."""
    if command.startswith(NOT_RUN):
        return
    for launcher, parser in LAUNCHERS.items():
        if command.startswith(launcher):
            launched = parser().parse_args(shlex.split(command.removeprefix(launcher)))
            assert launched.module, place
            arguments = launched.training_script_args
            command = shlex.join([launched.training_script, *arguments])
    if not command.startswith("selfaug "):
        done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True)
        assert done.returncode == 0, f"{place}: {command}\n{done.stderr}"
        return
    added = max((start for start in ADDED if command.startswith(start)), key=len, default="")
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], *ADDED.get(added, [])])
    assert result.exit_code == 0, f"{place}: {command}\n{result.output}"


def read_settings(text: str, place: str) -> None:
    """Write a YAML block to the file that its first line names, and read it as what it is."""
    name = re.match(r"# (\S+\.yaml)\n", text)
    assert name, f"{place}: the first line should name the file"
    file = Path(name[1])
    file.write_text(text, encoding="utf-8")
    if file.name == "template.yaml":
        RetrievalTemplate.from_file(file)
    elif file.name == "prepare.yaml":
        load_prepare_config(file)
    else:
        load_config(file)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{page.name}: {target}"


def test_layers_of_the_architecture_are_those_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    checked = [set(re.findall(r"selfaug\.(\w+)", layer)) for layer in contract["layers"]]
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Layers")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (\S.*)$", section, re.MULTILINE)
    # What a layer is for stands far to the right of its names.
    assert [set(re.split(r" {4,}", line)[0].split()) for line in lines] == checked


def test_the_readme_says_what_the_demos_record_says() -> None:
    """Its table is made by docs/update_demo_results.py; nobody has touched a number since."""
    record = read_record(ROOT / "docs" / "results" / "demo.json", "demo")
    update = script("docs/update_demo_results.py")
    written = published.block(update.NAME, update.readme_block(record))
    assert written in (ROOT / "README.md").read_text(encoding="utf-8")
    assert not record["quick"]
    assert record["settings"]["half"] == "test"


def test_the_sentences_of_the_readme_say_what_its_tables_say() -> None:
    """They are written by hand, most tables by scripts: what is measured anew is changed in both."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    took = table_below("What it does", text)["Training time"]
    plain_seconds, seconds = (seconds_of(took[method]) for method in ("plain LoRA", "SelfAug"))
    compared = table_below("Beside other methods", text)
    router = compared["plain LoRA behind a router"]
    learnt = [compared[one]["exact answers"] for one in ("SelfAug", "SelfAug with self-anchors")]
    assert router["style leaks"] == "0 %"
    whole = re.search(r"The run took (\d+ min \d+ s)", text)
    assert whole
    for sentence in (
        f"The demo's whole training, which has self-anchors, takes {seconds / plain_seconds:.1f} times as long",
        f"({router['exact answers']} exact, SelfAug {learnt[0].removesuffix(' %')} to {learnt[1]})",
        f"(general checks {router['general checks − base, in points']} points, no leaks)",
        f"It takes {IN_WORDS[round(seconds_of(whole[1]) / 60)]} minutes on two CPU cores",
    ):
        assert sentence in text


IN_WORDS = {8: "eight", 9: "nine", 10: "ten", 11: "eleven", 12: "twelve", 13: "thirteen", 14: "fourteen"}


def seconds_of(time: str) -> int:
    """Of a time as "2 min 15 s"."""
    minutes, seconds = re.findall(r"\d+", time)
    return 60 * int(minutes) + int(seconds)


def table_below(heading: str, text: str) -> dict[str, dict[str, str]]:
    """The first table below a heading by row and column, without intervals and notes in brackets."""
    lines = text.partition(f"\n## {heading}\n")[2].partition("\n|")[2].partition("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {
        name: dict(zip(head[1:], (cell.partition(" (")[0] for cell in cells), strict=True))
        for name, *cells in rows
    }


def test_readme_and_page_say_what_the_comparisons_record_says() -> None:
    update = script("docs/update_comparison.py")
    record = read_record(ROOT / "docs" / "results" / "comparison-demo.json", "comparison")
    longer = update.longer_records()
    written = published.block(update.NAME, update.readme_block(record, longer))
    assert written in (ROOT / "README.md").read_text(encoding="utf-8")
    for name, found in {"demo": record, **longer}.items():
        page = (ROOT / "docs" / "results" / f"comparison-{name}.md").read_text(encoding="utf-8")
        assert page == update.page(found, name)
    assert record["not_run"] == []


def test_the_comparisons_on_real_text_say_what_their_records_say() -> None:
    update = script("docs/update_comparison.py")
    files = sorted((ROOT / "docs" / "results").glob(f"comparison-{update.REAL_TEXT}*.json"))
    for file in files:
        name = file.stem.removeprefix("comparison-")
        page = file.with_suffix(".md").read_text(encoding="utf-8")
        assert page == update.page(read_record(file, "comparison"), name)
    record = read_record(ROOT / "docs" / "results" / f"comparison-{update.IN_README}.json", "comparison")
    written = published.block(update.IN_README, update.real_text_block(record))
    assert written in (ROOT / "README.md").read_text(encoding="utf-8")
    assert any(read_record(file, "comparison")["not_run"] == [] for file in files)
