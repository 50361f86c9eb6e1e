"""The command line. Imports what is heavy inside the commands, so that `--help` is quick."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import selfaug.cli.choose_commands
import selfaug.cli.dashboard_commands
import selfaug.cli.document_commands
import selfaug.cli.measure_commands
import selfaug.cli.monitor_commands
import selfaug.cli.realign_commands
import selfaug.cli.registry_commands
import selfaug.cli.report_commands
import selfaug.cli.roi_commands
import selfaug.cli.serve_commands  # noqa: F401 (their commands are the application's)
from selfaug.cli.app import (
    Config,
    Debug,
    EveryTurn,
    Json,
    MaxLength,
    Model,
    Offline,
    Prepared,
    Rows,
    Run,
    Sets,
    SkipBadRows,
    Template,
    app,
    debugging,
    load_settings,
    quiet_libraries,
)
from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.terminal import (
    RunProgress,
    outlive_readers,
    print_json,
    printable,
    say,
    say_error,
    take_any_character,
)
from selfaug.cli.whose_code import say_code_of_run
from selfaug.core.printable import counted, printable_size
from selfaug.launcher import is_first_process

if TYPE_CHECKING:
    from selfaug.config import TrainConfig
    from selfaug.phases.chat import Chat

# Windows ends input at Ctrl-Z, and reads Ctrl-D as a character.
_CTRL_D = "\x04"

__all__ = ["app", "main"]


@app.command(
    epilog="Example: selfaug train --model Qwen/Qwen2.5-0.5B-Instruct --train rows.jsonl --output runs/first"
)
def train(
    ctx: typer.Context,
    config: Config = None,
    model: Model = None,
    prepared: Prepared = None,
    rows: Rows = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="SOURCE", help="Rows to evaluate on; may be repeated."),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            "--evaluate",
            metavar="KIND",
            help="fast or full: ask base and tuned model at the end, and compare.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FOLDER", help="Run folder. Default: runs/first.")
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option("--alpha", metavar="NUMBER", help="Weight of the alignment loss; 0 is plain."),
    ] = None,
    drift_limit: Annotated[
        str | None,
        typer.Option(
            "--drift-limit", metavar="NATS", help="Hold the alignment loss to this, by moving alpha."
        ),
    ] = None,
    position_fraction: Annotated[
        str | None,
        typer.Option("--position-fraction", metavar="SHARE", help="Share of prompt positions aligned."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="KIND", help="auto, adapter_off, frozen_copy or cache."),
    ] = None,
    anchors: Annotated[
        str | None,
        typer.Option(
            "--anchors", metavar="KIND", help="self: align requests that the base model writes; or a file."
        ),
    ] = None,
    method: Annotated[str | None, typer.Option("--method", metavar="KIND", help="lora, full or osf.")] = None,
    rank: Annotated[str | None, typer.Option("--rank", metavar="NUMBER", help="Rank of the adapter.")] = None,
    epochs: Annotated[
        str | None, typer.Option("--epochs", metavar="NUMBER", help="Passes over the rows.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", metavar="NUMBER", help="Optimizer steps, instead of epochs.")
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option("--batch-size", metavar="ROWS", help="Rows a micro-batch and process.")
    ] = None,
    gradient_accumulation: Annotated[
        str | None, typer.Option("--gradient-accumulation", metavar="NUMBER", help="Micro-batches a step.")
    ] = None,
    learning_rate: Annotated[
        str | None, typer.Option("--learning-rate", metavar="NUMBER", help="Highest learning rate.")
    ] = None,
    save_steps: Annotated[
        str | None, typer.Option("--save-steps", metavar="STEPS", help="Steps between checkpoints.")
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="NUMBER", help="Seed of everything drawn.")
    ] = None,
    max_length: MaxLength = None,
    template: Template = None,
    every_assistant_turn: EveryTurn = False,
    skip_bad_rows: SkipBadRows = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="KIND", help="auto, float32, bfloat16 or float16.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")] = None,
    sets: Sets = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate memory, time and disk; write nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output from its last checkpoint.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --output.")] = False,
    offline: Offline = False,
    # For runs that are one of many: their pages would take longer than some of the trainings.
    no_page: Annotated[bool, typer.Option("--no-page", hidden=True, help="Write no report.html.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train with the alignment term, and write a run folder."""
    from selfaug.errors import ConfigError

    flags: dict[str, object] = {
        "--model": model,
        "--prepared": prepared,
        "--train": rows or None,
        "--eval": held_out or None,
        "--evaluate": evaluate,
        "--output": output,
        "--alpha": alpha,
        "--drift-limit": drift_limit,
        "--position-fraction": position_fraction,
        "--reference": reference,
        "--anchors": anchors,
        "--method": method,
        "--rank": rank,
        "--epochs": epochs,
        "--steps": steps,
        "--batch-size": batch_size,
        "--gradient-accumulation": gradient_accumulation,
        "--learning-rate": learning_rate,
        "--save-steps": save_steps,
        "--seed": seed,
        "--max-length": max_length,
        "--template": template,
        "--every-assistant-turn": every_assistant_turn or None,
        "--skip-bad-rows": skip_bad_rows or None,
        "--dtype": dtype,
        "--device": device,
        "--overwrite": overwrite or None,
        "--offline": offline or None,
    }
    if resume and (overwrite or dry_run):
        other = "--overwrite" if overwrite else "--dry-run"
        raise ConfigError(
            f"--resume and {other} exclude each other.",
            hint="--resume goes on with the run in --output; leave it out "
            + ("to begin anew in its place." if overwrite else "to estimate a new run."),
        )
    if resume and config is None:
        # The run's own settings; what is given besides must agree with them.
        config = str(_settings_of_run(output))
        flags["--output"] = output
        say_code_of_run(str(output))
    settings = load_settings(config, flags, sets)
    quiet_libraries(settings, debug=debugging(ctx))
    if dry_run:
        _show_estimate(settings, as_json)
        return
    from selfaug.cli.pages import write_page
    from selfaug.phases.train import train as run_training

    with RunProgress() as progress:
        result = run_training(settings, resume=resume, on_progress=progress.show)
    if not result.record:  # a process that is not the first
        return
    page = None if no_page else write_page(result.run)
    if as_json:
        evaluated = {} if result.evaluation is None else {"evaluated": result.evaluation}
        print_json({"run": str(result.run), **result.record, **evaluated})
        return
    final, record = result.record["final"], result.record
    typer.echo(f"run             {result.run}")
    typer.echo(f"steps           {record['steps']} in {record['seconds']:.0f} s{_anchors_of(record)}")
    for name, unit in (
        ("nll", "nats a completion token"),
        ("alignment_loss", "nats a prompt token"),
        ("alpha", ""),
    ):
        if final[name] is not None:
            typer.echo(f"{name:<15} {final[name]:.4g} {unit} (mean of the last quarter)")
    for name in ("eval_nll", "eval_alignment_loss"):
        if name in record["evaluation"]:
            typer.echo(f"{name:<15} {record['evaluation'][name]:.4g}")
    monitor = record.get("monitor") or {}
    if monitor.get("checkpoints"):
        drift = f"{monitor['checkpoints'][-1]['general_drift']:.4g} nats a token on general prompts"
        typer.echo(
            f"{'drift':<15} {drift} (measuring took {100 * monitor['share_of_time']:.0f} % of the time)"
        )
    if result.evaluation is not None:
        from selfaug.cli.evaluation_view import show_evaluation

        show_evaluation(result.evaluation)
    if page is not None:
        typer.echo(f"page: {page}")
    chat_with = shlex.join(["selfaug", "chat", str(result.run)])
    merge = shlex.join(["selfaug", "export", str(result.run), "--to", f"models/{result.run.name}"])
    say(f"\nnext: {chat_with}\n  or: {merge}")


@app.command(epilog="Example: selfaug preview --model Qwen/Qwen2.5-0.5B-Instruct --train rows.jsonl --rows 2")
def preview(
    ctx: typer.Context,
    config: Config = None,
    model: Model = None,
    prepared: Prepared = None,
    rows: Rows = None,
    count: Annotated[int, typer.Option("--rows", metavar="NUMBER", min=1, help="How many rows to show.")] = 3,
    row_id: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Show this row; may be repeated.")
    ] = None,
    max_length: MaxLength = None,
    template: Template = None,
    every_assistant_turn: EveryTurn = False,
    skip_bad_rows: SkipBadRows = False,
    sets: Sets = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show rows as the model will see them: prompt, boundary, completion, dropped."""
    flags: dict[str, object] = {
        "--model": model,
        "--prepared": prepared,
        "--train": rows or None,
        "--max-length": max_length,
        "--template": template,
        "--every-assistant-turn": every_assistant_turn or None,
        "--skip-bad-rows": skip_bad_rows or None,
        "--offline": offline or None,
    }
    settings = load_settings(config, flags, sets, command="preview")
    quiet_libraries(settings, debug=debugging(ctx))
    from selfaug.errors import DataError
    from selfaug.phases.inputs import load_training_data
    from selfaug.phases.preview import preview_rows

    data = load_training_data(settings)
    chosen = data.train.rows[:count]
    if row_id:
        by_id = {row.id: row for row in data.train.rows}
        missing = [one for one in row_id if one not in by_id]
        if missing:
            raise DataError(
                f"there is no row {', '.join(missing)}.", hint=f"ids look like {data.train.rows[0].id!r}."
            )
        chosen = [by_id[one] for one in row_id]
    shown = preview_rows(chosen, data.tokenizer)
    if as_json:
        print_json({**shown.record, "report": data.report, "warnings": data.warnings})
        return
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(shown.text)
    report = data.train.report
    say(
        f"\n{counted(report.rows, 'row')}: {report.prompt_tokens:,} prompt tokens, {report.completion_tokens:,} "
        f"completion tokens; median row {report.length_p50:,}, longest {report.length_max:,} "
        f"of {data.max_length:,}"
    )
    for warning in data.warnings:
        say(f"note: {warning}")


@app.command(epilog='Example: selfaug chat runs/first --prompt "What was the revenue in 2024?"')
def chat(
    ctx: typer.Context,
    run: Run,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="Ask this and end; else a conversation.")
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="System message for both models.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="TOKENS", min=1, help="Longest answer.")
    ] = 256,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    offline: Offline = False,
    as_json: Json = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Ask the base model and the tuned model, and show their answers side by side."""
    quiet_libraries(offline=offline, debug=debugging(ctx))
    say_code_of_run(run)
    from selfaug.phases.chat import open_chat

    conversation = open_chat(
        run, system=system, max_new_tokens=max_new_tokens, device=device, offline=offline
    )
    if conversation.step is not None:
        say(f"note: {run} is not complete; the tuned model is its checkpoint at step {conversation.step}.")
    if prompt is not None:
        _show_answers(conversation.ask(prompt), prompt, as_json)
        return
    _talk(conversation, as_json)


@app.command(epilog="Example: selfaug export runs/first --to models/first --ollama")
def export(
    ctx: typer.Context,
    run: Run,
    to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="New folder for the merged model.")],
    ollama: Annotated[bool, typer.Option("--ollama", help="Write a Modelfile for Ollama too.")] = False,
    vllm: Annotated[
        bool,
        typer.Option(
            "--vllm",
            help="For vLLM: the adapter, merged only if vLLM can't load it, the launch, and a compose file.",
        ),
    ] = False,
    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="KIND", help="Of the weights; auto: as the base model is stored."),
    ] = "auto",
    offline: Offline = False,
    as_json: Json = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Merge the adapter into the base model: safetensors and tokeniser that stand alone."""
    from selfaug.errors import ConfigError

    kinds = ("auto", "float32", "bfloat16", "float16")
    if dtype not in kinds:
        raise ConfigError(f"there is no dtype {dtype!r}.", hint=f"--dtype takes {', '.join(kinds)}.")
    if vllm and (ollama or dtype != "auto"):
        raise ConfigError("--ollama and --dtype have no meaning with --vllm.", hint="leave them out.")
    quiet_libraries(offline=offline, debug=debugging(ctx))
    say_code_of_run(run)
    if vllm:
        from selfaug.phases.vllm_launch import export_vllm

        launch = export_vllm(run, to, offline=offline)
        for warning in launch.warnings:
            say(f"note: {warning}")
        if as_json:
            print_json(
                {"folder": str(launch.folder), "commands": launch.commands, "warnings": launch.warnings}
            )
            return
        typer.echo(str(launch.folder))
        for command in launch.commands:
            typer.echo(f"next: {command}")
        return
    from selfaug.phases.export import export as run_export

    written = run_export(
        run, to, dtype=dtype, ollama=ollama, offline=offline, on_stage=lambda stage: say(f"{stage} ...")
    )
    if written.step is not None:
        say(f"note: {run} is not complete; this is its checkpoint at step {written.step}.")
    for warning in written.warnings:
        say(f"note: {warning}")
    if as_json:
        print_json(
            {
                "folder": str(written.folder),
                "bytes": written.size,
                "commands": written.commands,
                "warnings": written.warnings,
            }
        )
        return
    typer.echo(f"{written.folder}  {printable_size(written.size)}")
    for command in written.commands:
        typer.echo(f"next: {command}")


@app.command(epilog="Example: selfaug demo --quick")
def demo(
    ctx: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller taste, in some four minutes.")] = False,
    output: Annotated[
        str, typer.Option("--output", metavar="FOLDER", help="Where results are written.")
    ] = "runs/demo",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the demo in --output.")] = False,
    as_json: Json = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Specialise a small real model with plain LoRA and with SelfAug, and compare what they forget."""
    quiet_libraries(offline=True, debug=debugging(ctx))
    from selfaug.cli.demo_view import show_demo
    from selfaug.cli.pages import write_page
    from selfaug.phases.demo import run_demo

    folder = Path(output)
    try:
        with RunProgress() as progress:
            record = run_demo(folder, quick=quick, overwrite=overwrite, on_progress=progress.show)
        write_page(folder)
    except KeyboardInterrupt as interrupt:
        # Training says how to go on with one run; what was begun here is the demo.
        again = shlex.join(["selfaug", "demo", *(["--quick"] if quick else []), "--output", output])
        raise KeyboardInterrupt(f"stopped; what is done is kept. To go on: {again}") from interrupt
    if as_json:
        print_json(record)
    else:
        show_demo(record, folder)


@app.command(epilog="Example: selfaug doctor --json")
def doctor(ctx: typer.Context, as_json: Json = False, debug: Debug = False) -> None:
    """Show versions, extras, devices, memory and disk; what is missing, and how to get it."""
    quiet_libraries(offline=True, debug=debugging(ctx))
    from selfaug.phases.doctor import examine

    findings = examine()
    missing = [finding for finding in findings if finding.status == "missing"]
    if as_json:
        print_json({"ok": not missing, "findings": [finding.to_dict() for finding in findings]})
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        styles = {"ok": "green", "warning": "yellow", "missing": "bold red"}
        for finding in findings:
            told = Text(finding.found)
            if finding.hint:
                told.append(f"\n{finding.hint}", style="italic")
            table.add_row(Text(finding.status, style=styles[finding.status]), Text(finding.name), told)
        Console(highlight=False).print(table)
        say("everything that training needs is here." if not missing else f"{len(missing)} missing.")
    if missing:
        raise typer.Exit(1)


# ---- parts


def _settings_of_run(output: str | None) -> Path:
    from selfaug.errors import ConfigError
    from selfaug.rundir import RunDir

    if output is None:
        raise ConfigError(
            "--resume needs the run to go on with.", hint="name its folder: --resume --output runs/first."
        )
    return RunDir.open(output).config


def _show_estimate(settings: TrainConfig, as_json: bool) -> None:
    from selfaug.phases.estimate import estimate

    if not is_first_process():  # under a launcher, one process speaks
        return
    needs = estimate(settings, on_stage=lambda stage: say(f"{stage} ..."))
    if as_json:
        print_json(needs.to_dict())
        return

    def size(count: int | None) -> str:
        return "unknown" if count is None else printable_size(count)

    lines = {
        "device": f"{needs.device}, {needs.dtype}"
        + (f", {needs.processes:,} processes" if needs.processes > 1 else ""),
        "rows": f"{needs.rows:,} ({needs.tokens:,} tokens), {counted(needs.steps, 'step')}",
        "parameters": f"{needs.parameters:,}, of which trained or added {needs.trainable:,}",
        "memory": f"{size(needs.memory_bytes)} (weights {size(needs.weights_bytes)}, optimizer "
        f"{size(needs.optimizer_bytes)}, activations {size(needs.activations_bytes)}); "
        f"free {size(needs.memory_free_bytes)}",
        "time": "not measured" if needs.seconds is None else _duration(needs.seconds),
        "disk": f"{size(needs.disk_bytes)}"
        + (f" and {size(needs.cache_bytes)} of reference cache" if needs.cache_bytes else "")
        + f"; free {size(needs.disk_free_bytes)}",
    }
    for name, text in lines.items():
        typer.echo(f"{name:<11} {text}")
    typer.echo("how:")
    for line in needs.how:
        typer.echo(f"  {line}")
    for warning in needs.warnings:
        say(f"note: {warning}")


def _anchors_of(record: Mapping[str, Any]) -> str:
    """How much of the time went into anchors; nothing where none were written."""
    seconds = record["anchor_seconds"]
    return f", {seconds:.0f} s of them for writing anchors" if seconds else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _talk(conversation: Chat, as_json: bool) -> None:
    """A conversation, until the user ends it."""
    from selfaug.phases.chat import TooLongError

    ends = "Ctrl-Z and Enter end" if os.name == "nt" else "Ctrl-D ends"
    say(f"{ends} the conversation; an empty line starts a new one.")
    while (line := _read_line()) is not None:
        if not line.strip():
            conversation.start_anew()
            say("new conversation.")
            continue
        try:
            answers = conversation.ask(line)
        except TooLongError as error:  # the next question need not be
            say_error(str(error))
            continue
        if answers.dropped:
            left_out = counted(answers.dropped, "question is", "questions are")
            say(
                f"note: the oldest {left_out} left out, with the answers: the conversation no longer fits into the "
                f"model's window of {conversation.window:,} tokens."
            )
        _show_answers(answers, line, as_json)


def _read_line() -> str | None:
    """A line from the user, or None at the end."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (gives input() its line editing)
        try:
            line = input("> ")
        except EOFError:
            return None
    else:
        line = sys.stdin.readline()
        if not line:
            return None
    line = line.rstrip("\n")
    return None if line == _CTRL_D else line


def _show_answers(answers: Any, prompt: str, as_json: bool) -> None:
    if as_json:
        # One line an answer, so that a conversation is JSON lines.
        import json

        typer.echo(json.dumps({"prompt": prompt, "base": answers.base, "tuned": answers.tuned}))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True, show_lines=True)
    table.add_column("base", ratio=1)
    table.add_column("tuned", ratio=1)
    # Text, not markup: a model can write [bold] or an escape sequence.
    table.add_row(Text(printable(answers.base)), Text(printable(answers.tuned)))
    Console(highlight=False).print(table)


def main() -> None:
    """Entry point of `selfaug` and `python -m selfaug`."""
    take_any_character()
    outlive_readers()
    app()
