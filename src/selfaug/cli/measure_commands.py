"""Commands that measure: assess and evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfaug.cli.app import (
    GATE_FAILED,
    Config,
    Debug,
    Device,
    Json,
    Level,
    MaxLength,
    MaxNewTokens,
    Model,
    Offline,
    Prepared,
    Rows,
    Run,
    Scorer,
    Sets,
    SkipBadRows,
    Template,
    app,
    asking_flags,
    debugging,
    going_on,
    level_name,
    load_settings,
    quiet_libraries,
)
from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.terminal import RunProgress, print_json, say
from selfaug.cli.whose_code import say_code_of_run

__all__ = ["assess", "evaluate"]

Suites = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        metavar="FILE",
        help="Questions of your own, JSONL or module:function; may be repeated.",
    ),
]
Benchmarks = Annotated[
    list[str] | None,
    typer.Option("--benchmark", metavar="TASK", help="A task of lm-eval, beside it; may be repeated."),
]
BenchmarkTasks = Annotated[
    str | None,
    typer.Option("--benchmark-tasks", metavar="FOLDER", help="Task files of your own, for --benchmark."),
]
BenchmarkItems = Annotated[
    int | None, typer.Option("--benchmark-items", metavar="NUMBER", min=1, help="So many of each.")
]


@app.command(
    epilog="Example: selfaug assess --model Qwen/Qwen2.5-0.5B-Instruct --train rows.jsonl --eval held-out.jsonl"
)
def assess(
    ctx: typer.Context,
    config: Config = None,
    model: Model = None,
    prepared: Prepared = None,
    rows: Rows = None,
    evaluate: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="SOURCE", help="Held-out rows, for the job's score; may be repeated."),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", metavar="FOLDER", help="Where the assessment is written.")
    ] = "runs/assessment",
    scorer: Scorer = "exact",
    probe_steps: Annotated[
        int, typer.Option("--probe-steps", metavar="STEPS", min=1, help="Steps of the plain-LoRA probe.")
    ] = 40,
    level: Level = "auto",
    suite: Suites = None,
    benchmark: Benchmarks = None,
    benchmark_tasks: BenchmarkTasks = None,
    benchmark_items: BenchmarkItems = None,
    general_items: Annotated[
        int | None, typer.Option("--general-items", metavar="NUMBER", min=1, help="So many general requests.")
    ] = None,
    task_items: Annotated[
        int | None,
        typer.Option(
            "--task-items",
            metavar="NUMBER",
            min=1,
            help="So many held-out rows, evenly over their sources.",
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 128,
    max_length: MaxLength = None,
    template: Template = None,
    skip_bad_rows: SkipBadRows = False,
    device: Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")] = None,
    sets: Sets = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Assess anew.")] = False,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the base model on the job and in general, and what plain fine-tuning would make it forget."""
    flags: dict[str, object] = {
        "--model": model,
        "--prepared": prepared,
        "--train": rows or None,
        "--eval": evaluate or None,
        "--output": output,
        "--max-length": max_length,
        "--template": template,
        "--skip-bad-rows": skip_bad_rows or None,
        "--device": device,
        "--overwrite": overwrite or None,
        "--offline": offline or None,
        **asking_flags(ctx, scorer, level, max_new_tokens),
        "--suite": suite or None,
    }
    settings = load_settings(config, flags, sets, command="assess")
    quiet_libraries(settings, debug=debugging(ctx))
    from selfaug.cli.assessment_view import show_assessment
    from selfaug.cli.pages import write_page
    from selfaug.phases.assess import assess as run_assessment
    from selfaug.phases.suites import AskSettings

    try:
        with RunProgress() as progress:
            record = run_assessment(
                settings,
                AskSettings(
                    scorer=settings.evaluation.scorer,
                    level=settings.evaluation.level,
                    suites=settings.evaluation.suites,
                    general_items=general_items,
                    task_items=task_items,
                    max_new_tokens=settings.evaluation.max_new_tokens,
                ),
                probe_steps=probe_steps,
                benchmarks=benchmark or (),
                benchmark_tasks=benchmark_tasks,
                benchmark_items=benchmark_items,
                on_progress=progress.show,
            )
    except KeyboardInterrupt as interrupt:
        record_file = Path(settings.run.output) / "record.json"
        raise going_on(record_file if settings.run.overwrite else None, by_flag=overwrite) from interrupt
    write_page(settings.run.output)
    if as_json:
        print_json(record)
    else:
        show_assessment(record, Path(settings.run.output))


@app.command(
    epilog="Example: selfaug evaluate runs/first --data held-out.jsonl --scorer numeric --max-forgetting 0.05"
)
def evaluate(
    ctx: typer.Context,
    run: Run,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="SOURCE", help="Held-out rows; else those that the run evaluated on."),
    ] = None,
    scorer: Scorer = "exact",
    also_score: Annotated[
        list[str] | None,
        typer.Option(
            "--also-score",
            metavar="NAME",
            help="What the answers are worth by another scorer; may be repeated. The gate keeps to --scorer.",
        ),
    ] = None,
    max_forgetting: Annotated[
        float | None,
        typer.Option("--max-forgetting", metavar="SHARE", min=0, max=1, help="Gate: general score lost."),
    ] = None,
    min_retention: Annotated[
        float | None,
        typer.Option(
            "--min-retention",
            metavar="SHARE",
            min=0,
            max=1,
            help="Gate: share of the general score that is kept.",
        ),
    ] = None,
    min_task_gain: Annotated[
        float | None,
        typer.Option("--min-task-gain", metavar="SHARE", min=-1, max=1, help="Gate: task score gained."),
    ] = None,
    min_task_score: Annotated[
        float | None,
        typer.Option(
            "--min-task-score", metavar="SHARE", min=0, max=1, help="Gate: the tuned model's task score."
        ),
    ] = None,
    half: Annotated[
        str, typer.Option("--half", metavar="NAME", help="General requests: test, or dev to choose on.")
    ] = "test",
    level: Level = "auto",
    suite: Suites = None,
    benchmark: Benchmarks = None,
    benchmark_tasks: BenchmarkTasks = None,
    benchmark_items: BenchmarkItems = None,
    general_items: Annotated[
        int | None, typer.Option("--general-items", metavar="NUMBER", min=1, help="So many of them.")
    ] = None,
    task_items: Annotated[
        int | None,
        typer.Option(
            "--task-items", metavar="NUMBER", min=1, help="So many of the rows, evenly over their sources."
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="96 general requests and 32 rows in all, for a look in minutes.")
    ] = False,
    max_new_tokens: MaxNewTokens = 128,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="ROWS", min=1, help="Prompts answered together.")
    ] = 32,
    forecast: Annotated[
        str | None,
        typer.Option(
            "--forecast", metavar="FOLDER", help="A comparison: what its runs forgot at this drift."
        ),
    ] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Log settings, scores, gate and files as a run of MLflow.")
    ] = False,
    base_from: Annotated[
        str | None,
        typer.Option(
            "--base-from", metavar="RUN", help="Evaluated alike: take the base model's answers from there."
        ),
    ] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Evaluate anew.")] = False,
    offline: Offline = False,
    as_json: Json = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Compare the tuned model with its base model, on the task and in general; decide a gate."""
    from selfaug.errors import ConfigError

    if half not in ("dev", "test"):
        raise ConfigError(
            f"there is no half {half!r} of the general requests.",
            hint="choose on --half dev, and report on --half test.",
        )
    quiet_libraries(offline=offline, debug=debugging(ctx))
    from selfaug.cli.evaluation_view import show_evaluation
    from selfaug.cli.pages import write_page
    from selfaug.eval.general_suite import FAST_ITEMS
    from selfaug.phases.evaluate import FAST_ROWS
    from selfaug.phases.evaluate import evaluate as run_evaluation
    from selfaug.phases.mlflow_run import log_evaluation, require_mlflow
    from selfaug.phases.suites import AskSettings
    from selfaug.rundir import RunDir

    if mlflow:
        require_mlflow()
    if fast:
        general_items, task_items = general_items or FAST_ITEMS, task_items or FAST_ROWS
    say_code_of_run(run)
    try:
        with RunProgress() as progress:
            result = run_evaluation(
                run,
                AskSettings(
                    scorer=scorer,
                    level=level_name(level),
                    suites=suite or (),
                    general_items=general_items,
                    task_items=task_items,
                    max_new_tokens=max_new_tokens,
                    batch_size=batch_size,
                ),
                data=data or (),
                also_score=also_score or (),
                half="dev" if half == "dev" else "test",
                benchmarks=benchmark or (),
                benchmark_tasks=benchmark_tasks,
                benchmark_items=benchmark_items,
                max_forgetting=max_forgetting,
                min_retention=min_retention,
                min_task_gain=min_task_gain,
                min_task_score=min_task_score,
                forecast=forecast,
                device=device,
                offline=offline,
                overwrite=overwrite,
                base_from=base_from,
                on_progress=progress.show,
            )
    except KeyboardInterrupt as interrupt:
        raise going_on(RunDir(run).evaluation if overwrite else None) from interrupt
    # Shown first: a page that can't be written hides nothing.
    if as_json:
        print_json(result.record)
    else:
        show_evaluation(result.record)
    page = write_page(run)
    if page is not None and not as_json:
        typer.echo(f"page: {page}")
    if mlflow:
        say(f"MLflow run {log_evaluation(run, result.record)}")
    if result.outcome not in (None, "pass"):
        raise typer.Exit(GATE_FAILED)
