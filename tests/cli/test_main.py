"""Commands through Typer's runner; what needs a process of its own is in test_processes.py."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from other_user import as_nobody
from quiet_libraries import libraries_as_before
from selfaug.cli.main import app
from selfaug.cli.terminal import RunProgress, outlive_readers, printable, say, say_error
from selfaug.model.running_batch import NoRoomError
from selfaug.phases.progress import Progress
from selfaug.rundir import RunDir

COMMANDS = ["train", "preview", "chat", "export", "demo", "doctor", "prepare", "recall", "ask", "monitor"]


@pytest.fixture(autouse=True)
def libraries_as_they_were() -> Iterator[None]:
    with libraries_as_before():
        yield


def run(*arguments: str, **options: str) -> Result:
    return CliRunner().invoke(app, list(arguments), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: selfaug {command}" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train", "--alhpa", "1"],
        ["export", "run"],  # --to is missing
        ["chat"],
        ["preview", "--rows", "none"],
        ["train", "--rank", "many"],
        ["train", "--config", "missing.yaml"],
        ["prepare"],
        ["prepare", "docs", "--passages", "many"],
        ["recall", "data"],
        ["ask", "run"],
        ["train", "--resume"],
        ["train", "--resume", "--overwrite", "--output", "x"],
        ["export", "run", "--to", "x", "--dtype", "int8"],
        ["realign", "run", "--data", "rows.jsonl", "--max-task-loss", "3"],  # points, where shares are meant
        ["realign", "run", "--data", "rows.jsonl", "--min-new-gain", "5"],
    ],
)
def test_wrong_usage_and_wrong_settings_exit_with_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


def test_all_problems_of_the_settings_are_told_at_once() -> None:
    result = run("train", "--rank", "many", "--set", "selfaug.alhpa=1", "--model", "m")
    assert result.stderr.count("\n  - ") == 3
    assert "did you mean selfaug.alpha?" in result.stderr


def test_a_path_that_leads_to_no_run_is_wrong_usage(tmp_path: Path) -> None:
    file, registry = tmp_path / "file", str(tmp_path / "registry.sqlite")
    file.touch()
    for place, why in (("missing", "there is no such folder"), (str(file), "is a file, not a folder")):
        for arguments in (
            ["chat", place],
            ["evaluate", place],
            ["export", place, "--to", "x"],
            ["monitor", place],
            ["realign", place, "--data", str(file)],
            ["registry", "add", place, "--registry", registry],
            ["serve", place],
            ["roi", "--run", place],
        ):
            result = run(*arguments)
            assert result.exit_code == 2, arguments
            assert "not a selfaug run" in result.stderr
            assert why in " ".join(result.stderr.split())
            assert "Hint:" in result.stderr


def test_a_file_in_the_place_of_a_folder_is_called_so(
    tmp_path: Path, finished_run: Path, tiny_model_dir: Path, tiny_rows: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    model = ["--model", str(tiny_model_dir), "--train", str(tiny_rows)]
    for arguments in (
        ["train", *model, "--output", str(file)],
        ["train", *model, "--output", str(file), "--dry-run"],
        ["train", "--model", str(file), "--train", str(tiny_rows)],
        ["export", str(finished_run), "--to", str(file)],
        ["export", str(finished_run), "--to", str(file), "--vllm"],
        ["report", str(file)],
        ["roi", str(file)],
        ["prepare", str(file), "--output", str(tmp_path / "prepared")],
        ["assess", *model, "--output", str(file)],
    ):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert re.search(rf"{file}(: it)? is a file, not a", " ".join(result.stderr.split())), result.stderr
        assert "merging" not in result.stderr
    nothing = run("roi", str(tmp_path / "nothing"))
    assert nothing.exit_code == 2
    assert "there is no folder" in nothing.stderr
    assert "written last" not in nothing.stderr
    registry = run("registry", "--registry", str(tiny_rows))
    assert registry.exit_code == 2
    assert "is no registry" in registry.stderr


def test_options_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    registry = ["--registry", str(tmp_path / "registry.sqlite")]
    for arguments, said in (
        (["serve", "run", "--new-key", "--no-key"], "--new-key and --no-key exclude each other"),
        (["serve", "run", "--upstream-tuned", "prod"], "they need --upstream"),
        (["serve", "run", "--upstream-base", "base"], "they need --upstream"),
        (["serve", "run", "--no-monitor", "--keep-texts"], "with --no-monitor no text is kept"),
        (["serve", "run", "--no-monitor", "--webhook", "https://x"], "and nobody is told"),
        (["registry", "promote", "1", "--note", "x", *registry], "--note has no meaning with promote"),
        (["registry", "list", "--parent", "1", *registry], "--parent has no meaning with list"),
        (["monitor", "run", "--data", "rows.jsonl"], "--data has a meaning with --reference only"),
        (["monitor", "run", "--prompts", "50"], "--prompts has a meaning with --reference only"),
        (["monitor", "run", "--older-than", "3"], "--older-than has a meaning with --purge only"),
        (
            ["monitor", "run", "--purge", "--overwrite"],
            "--overwrite has a meaning with --reference or --rules",
        ),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert said in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_is_missing_names_the_help_of_its_command() -> None:
    for command in ("train", "preview", "assess"):
        result = run(command, "--train", "rows.jsonl")
        assert result.exit_code == 2
        assert f"`selfaug {command} --help`" in result.stderr


def test_a_limit_of_drift_without_alignment_says_what_to_give() -> None:
    result = run("train", "--model", "m", "--train", "r.jsonl", "--drift-limit", "0.1", "--alpha", "0")
    assert result.exit_code == 2
    assert "give --alpha above 0" in " ".join(result.stderr.split())


def test_data_that_was_not_prepared_is_called_so(tmp_path: Path, tiny_model_dir: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("train", "--model", str(tiny_model_dir), "--prepared", str(tmp_path / "empty"))
    assert result.exit_code == 2
    assert "has not been prepared, or not to its end" in " ".join(result.stderr.split())


def test_a_name_without_an_owner_says_what_may_be_missing(tiny_rows: Path) -> None:
    result = run("train", "--model", "qwen3-0.6b", "--train", str(tiny_rows), "--offline")
    assert result.exit_code == 2
    assert "owner/name" in result.stderr
    assert "is it missing?" in " ".join(result.stderr.split())


def test_an_unexpected_error_is_one_line_and_debug_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unforeseen(*_: object, **__: object) -> None:
        raise ValueError("first line\nsecond line")

    monkeypatch.setattr("selfaug.phases.whose_code.code_of_run", unforeseen)
    arguments = ["chat", "run", "--prompt", "x"]
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ValueError: first line\nHint: ")
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run(*arguments, "--debug").stderr
    assert "Traceback" in run("--debug", *arguments).stderr


def test_a_gpu_whose_memory_is_too_small_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise NoRoomError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("selfaug.phases.whose_code.code_of_run", full)
    result = run("chat", "run", "--prompt", "x")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "error: out of GPU memory: CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    assert "Hint: `nvidia-smi`" in result.stderr
    assert "--debug" not in result.stderr


def test_what_nobody_reads_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for shown in (io.StringIO(), io.TextIOWrapper(io.BytesIO())):
        monkeypatch.setattr(sys, "stderr", shown)
        outlive_readers()
        assert sys.stderr is shown, "there is no pipe beneath it"
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="latin-1", errors="replace") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        outlive_readers()
        say("a \N{LEFTWARDS ARROW} \xfc")
        assert os.read(reader, 100) == b"a ? \xfc\n"
        stderr.reconfigure(write_through=True)
        monkeypatch.setattr(sys, "stderr", stderr)
        outlive_readers()
        sys.stderr.write("at once")
        assert os.read(reader, 100) == b"at once"
        os.close(reader)
        say_error("nobody reads it")
        with RunProgress() as progress:
            progress.show(Progress("warning", message="nor this"))
        sys.stderr.flush()
    monkeypatch.undo()


def test_a_folder_that_may_not_be_entered_is_a_clear_error() -> None:
    import selfaug.phases.export  # noqa: F401 (which a user who may enter little could not)

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        private = Path(folder, "private")
        (private / "run").mkdir(parents=True)
        private.chmod(0)
        try:
            with as_nobody():
                result = run("export", str(private / "run"), "--to", str(private / "model"))
        finally:
            private.chmod(0o755)
    assert result.exit_code == 1
    assert re.fullmatch(
        rf"error: {private}/run\S*: permission denied\.\nHint: its permissions, or .* another path\.\n",
        result.stderr,
    )


def test_a_permission_of_no_file_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("selfaug.phases.whose_code.code_of_run", refused)
    result = run("chat", "run", "--prompt", "x")
    assert result.stderr.startswith(
        "error: PermissionError: [Errno 1] Operation not permitted\nHint: this was"
    )


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert run("--version").stdout.strip() == version("selfaug")


def test_preview_shows_the_rows_and_gives_them_as_json(tiny_model_dir: Path, tiny_rows: Path) -> None:
    arguments = ["preview", "--model", str(tiny_model_dir), "--train", str(tiny_rows)]
    result = run(*arguments, "--rows", "2")
    assert result.exit_code == 0
    assert result.stdout.count("prompt tokens") == 2
    assert "24 rows" in result.stderr
    shown = json.loads(run(*arguments, "--id", "row-5", "--json").stdout)
    assert [row["id"] for row in shown["rows"]] == ["row-5"]
    missing = run(*arguments, "--id", "row-99")
    assert missing.exit_code == 2
    assert "there is no row row-99" in missing.stderr


def test_bad_rows_are_told_with_their_lines(tmp_path: Path, tiny_model_dir: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n{"prompt"\n', encoding="utf-8")
    result = run("preview", "--model", str(tiny_model_dir), "--train", str(file))
    assert result.exit_code == 2
    assert f"{file}:2" in result.stderr
    assert f"{file}:3" in result.stderr
    skipped = run("preview", "--model", str(tiny_model_dir), "--train", str(file), "--skip-bad-rows")
    assert skipped.exit_code == 0
    assert "note: 2 training rows can't be used and are left out:\n" in skipped.stderr
    assert f"  - {file}:2: 'completion' is missing; found 'prompt'\n" in skipped.stderr
    assert f"  - {file}:3: not valid JSON: " in skipped.stderr
    file.write_text('{"prompt": "a"}\n' * 25, encoding="utf-8")
    arguments = ("preview", "--model", str(tiny_model_dir), "--train", str(file))
    shown = run(*arguments).stderr
    assert f"  - {file}:20: " in shown
    assert f"  - {file}:21: " not in shown
    assert "  - and 5 more: --debug shows all" in shown
    assert f"  - {file}:25: " in run(*arguments, "--debug").stderr


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"", ("rows.jsonl is empty",)),
        (b'{"question": "a", "completion": "b"}\n', ("rows.jsonl:1", "found 'question', 'completion'")),
        (b'{"prompt": "a", "completion": ""}\n', ("rows.jsonl:1", "completion")),
        ('{"prompt": "Größe", "completion": "b"}\n'.encode("latin-1"), ("rows.jsonl:1", "UTF-8")),
        (
            b'{"prompt": "' + 300 * b"the number " + b'", "completion": "b"}\n',
            ("rows.jsonl:1", "the window"),
        ),
        (
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
            ("chat template",),
        ),
    ],
    ids=["empty", "wrong names", "no completion", "Latin-1", "longer than the window", "no chat template"],
)
def test_train_refuses_bad_data_with_a_hint_and_writes_nothing(
    tmp_path: Path, tiny_model_dir: Path, written: bytes, said: tuple[str, ...]
) -> None:
    model, file, output = tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "run"
    shutil.copytree(tiny_model_dir, model)
    if said == ("chat template",):
        (model / "chat_template.jinja").unlink()
    file.write_bytes(written)
    result = run("train", "--model", str(model), "--train", str(file), "--output", str(output))
    assert result.exit_code == 2
    assert result.stdout == ""
    words = " ".join(result.stderr.split())
    for one in (*said, "Hint:"):
        assert one in words
    assert sorted(tmp_path.iterdir()) == [model, file]


def test_train_refuses_a_place_that_can_not_be_written_before_it_loads_anything(
    tiny_model_dir: Path, tiny_rows: Path
) -> None:
    result = run("train", "--model", str(tiny_model_dir), "--train", str(tiny_rows), "--output", "/proc/run")
    assert result.exit_code == 1  # the machine's fault
    words = " ".join(result.stderr.split())
    assert "can't write into" in words
    assert "Hint:" in words


@pytest.mark.parametrize("command", ["assess", "evaluate", "realign", "demo"])
def test_ctrl_c_says_how_to_go_on_with_what_was_begun(
    command: str, finished_run: Path, tiny_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("to go on: selfaug train --resume")  # what a training says of itself alone

    name = "run_demo" if command == "demo" else command
    monkeypatch.setattr(f"selfaug.phases.{command}.{name}", stopped)
    rows = str(tiny_rows)
    given = {
        "assess": ["--model", str(finished_run), "--train", rows],
        "evaluate": [str(finished_run)],
        "realign": [
            str(finished_run),
            "--data",
            rows,
            "--eval-data",
            rows,
            "--output",
            str(tmp_path / "new"),
        ],
        "demo": ["--quick", "--output", str(tmp_path)],
    }[command]
    result = run(command, *given)
    assert result.exit_code == 130, result.stderr
    again = (
        ", give the same command again."
        if command != "demo"
        else f": selfaug demo --quick --output {tmp_path}"
    )
    assert f"To go on{again}\n" in result.stderr
    assert "--resume" not in result.stderr
    if command in ("assess", "evaluate"):
        assert "again, without --overwrite.\n" in run(command, *given, "--overwrite").stderr


def test_the_page_of_an_assessment_is_where_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []
    monkeypatch.setattr("selfaug.cli.pages.write_page", pages.append)
    monkeypatch.setattr("selfaug.phases.assess.assess", lambda *_, **__: {})
    given = ["--model", "m", "--train", "rows.jsonl", "--set", f"run.output={tmp_path / 'X'}", "--json"]
    assert run("assess", *given).exit_code == 0
    assert pages == [str(tmp_path / "X")]


def test_a_dry_run_says_that_the_run_is_being_trained(
    tmp_path: Path, tiny_model_dir: Path, tiny_rows: Path
) -> None:
    folder = RunDir(tmp_path / "run")
    with folder.training():
        folder.config.write_text(folder.config_text(""), encoding="utf-8")
        arguments = ["--model", str(tiny_model_dir), "--train", str(tiny_rows), "--output", str(folder.path)]
        result = run("train", "--dry-run", *arguments)
    assert result.exit_code == 1
    assert f"is being trained by another process (PID {os.getpid()})" in result.stderr
    assert "--resume" not in result.stderr


def test_dry_run_estimates_and_writes_nothing(tmp_path: Path, tiny_model_dir: Path, tiny_rows: Path) -> None:
    arguments = ["train", "--dry-run", "--model", str(tiny_model_dir), "--train", str(tiny_rows)]
    arguments += ["--output", str(tmp_path / "run")]
    needs = json.loads(run(*arguments, "--json").stdout)
    assert needs["parameters"] == 28_000
    assert "how:" in run(*arguments).stdout
    assert not (tmp_path / "run").exists()


def test_a_conversation_ends_at_the_end_of_its_input(finished_run: Path) -> None:
    arguments = ["chat", str(finished_run), "--max-new-tokens", "3", "--device", "cpu"]
    # Ctrl-D, as Windows gives it.
    result = run(*arguments, "--json", input="hello\n\nthe revenue?\n\x04\nnever asked\n")
    assert result.exit_code == 0
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["hello", "the revenue?"]
    assert all(answer.keys() == {"prompt", "base", "tuned"} for answer in answers)
    shown = run(*arguments, "--prompt", "hello")
    assert "base" in shown.stdout
    assert "tuned" in shown.stdout


def test_a_conversation_goes_on_past_the_models_window(finished_run: Path) -> None:
    arguments = ["chat", str(finished_run), "--max-new-tokens", "3", "--device", "cpu", "--json"]
    long = "the revenue of the company " * 12
    result = run(*arguments, input=f"{long}\n{long * 10}\n{long}\n{long}\n{long}\n")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 4
    assert re.search(
        r"error: the question has \d+ tokens, which leave no room for an answer in the model's window of 256\.",
        result.stderr,
    )
    assert (
        "note: the oldest 1 question is left out, with the answers: the conversation no longer"
        in result.stderr
    )
    alone = run(*arguments, "--prompt", long * 10)
    assert (alone.exit_code, "window of 256" in alone.stderr) == (2, True)


def test_export_says_where_and_what_is_next(finished_run: Path, tmp_path: Path) -> None:
    told = json.loads(run("export", str(finished_run), "--to", str(tmp_path / "a"), "--json").stdout)
    assert told["folder"] == str(tmp_path / "a")
    result = run("export", str(finished_run), "--to", str(tmp_path / "b"), "--ollama")
    assert "next: ollama create b -f" in result.stdout


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_train_says_what_came_out(
    tmp_path: Path, tiny_model_dir: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "--model", str(tiny_model_dir), "--train", str(tiny_rows), "--steps", "1"]
    arguments += ["--output", str(tmp_path / "a run")]
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"run             {tmp_path / 'a run'}\nsteps           1 in")
    said = r"drift           \S+ nats a token on general prompts \(measuring took \d+ % of the time\)"
    assert re.search(said, result.stdout)
    assert f"next: selfaug chat '{tmp_path / 'a run'}'\n" in result.stderr
    assert "--to 'models/a run'" in result.stderr
    taken = run(*arguments)
    assert taken.exit_code == 1
    assert "--overwrite" in taken.stderr
    page = tmp_path / "a run" / "report.html"
    assert f"page: {page}\n" in result.stdout
    assert "not evaluated yet" in page.read_text(encoding="utf-8")

    def broken(_: Path) -> str:
        raise RuntimeError("no picture")

    # A page that can't be drawn is told, and fails nothing.
    monkeypatch.setattr("selfaug.report.open_report.page_of", broken)
    result = run(*arguments, "--overwrite", "--json")
    assert json.loads(result.stdout)["steps"] == 1
    assert "the page could not be made (RuntimeError: no picture)" in result.stderr
    assert not page.exists()


def test_doctor_says_what_there_is() -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["ok"]
    assert "torch" in {finding["name"] for finding in found["findings"]}
    assert "torch" in run("doctor").stdout


def test_with_everything_on_this_machine_no_hub_is_asked(
    tiny_model_dir: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    run("preview", "--model", str(tiny_model_dir), "--train", str(tiny_rows))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\x07", "a\\rb\\x07"),
        ("\u202eevil", "\\u202eevil"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Zürich 東京 👩\u200d💻", "Zürich 東京 👩\u200d💻"),
        ("می\u200cخواهم\u200b", "می\u200cخواهم\\u200b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_of_a_model_are_shown_and_not_obeyed(written: str, shown: str) -> None:
    assert printable(written) == shown


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress() as progress:
        progress.show(Progress("data"))
        for step in range(101):
            progress.show(Progress("training", step, 100, {"nll": 2.0, "alignment_loss": 0.01, "alpha": 0.5}))
        progress.show(Progress("warning", message="careful \x1b[2J"))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "reading the rows ..."
    assert "training 100/100 nll 2  alignment 0.01  alpha 0.5" in lines
    assert len(lines) <= 4
    assert lines[-1] == "note: careful \\x1b[2J"


def test_the_newest_bar_is_shown_however_many_stages_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that has fewer lines than there are bars would leave out the newest."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("LINES", "12"), ("COLUMNS", "100"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    with RunProgress() as progress:
        progress.show(Progress("the longest", 1, 9))
        progress.show(Progress("warning", message="prepare" + " --set a=b" * 20))
        for number in range(20):
            progress.show(Progress(f"stage {number}", 1, 2))
            progress.show(Progress(f"stage {number}", 2, 2))
    written = terminal.getvalue()
    # A long line stays one: a command in it may be pasted.
    assert "prepare" + " --set a=b" * 20 in written
    # What is on the screen at last: what isn't finished and the newest; the others are lines above.
    assert "the longest" in written.rpartition("stage 12")[2]
    assert "stage 19" in written.rpartition("the longest")[2]
    assert all(f"stage {number} " in written for number in range(20))
