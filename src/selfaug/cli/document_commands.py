"""Commands that work on documents: prepare, recall and ask."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from selfaug.cli.app import Config, Debug, Device, Json, Offline, Run, Sets, app, debugging, quiet_libraries
from selfaug.cli.flags_file import FlagsFile
from selfaug.cli.terminal import RunProgress, print_json, printable, say
from selfaug.cli.whose_code import say_code_of_prepared, say_code_of_run
from selfaug.core.printable import counted
from selfaug.errors import ConfigError

__all__ = ["ask", "prepare", "recall"]


@app.command(epilog="Example: selfaug prepare reports/ --questions questions.jsonl --output data/reports")
def prepare(
    ctx: typer.Context,
    documents: Annotated[
        str | None,
        typer.Argument(metavar="FOLDER", help="Documents: PDF, DOCX, XLSX, HTML, Markdown, text, CSV."),
    ] = None,
    config: Config = None,
    questions: Annotated[
        list[str] | None,
        typer.Option(
            "--questions", metavar="FILE", help="Question-answer pairs, JSONL or CSV; may be repeated."
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FOLDER", help="Default: data/prepared.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Its tokens are counted; else words are.")
    ] = None,
    chunk_tokens: Annotated[
        str | None, typer.Option("--chunk-tokens", metavar="TOKENS", help="Longest passage. Default: 256.")
    ] = None,
    passages: Annotated[
        str | None, typer.Option("--passages", metavar="NUMBER", help="In a prompt. Default: 5.")
    ] = None,
    follow_ups: Annotated[
        str | None,
        typer.Option(
            "--follow-ups", metavar="NUMBER", help="More questions on a row's passages. Default: 0."
        ),
    ] = None,
    completion: Annotated[
        str | None,
        typer.Option("--completion", metavar="TEXT", help="Its form. Default: '{answer} {sources}'."),
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", metavar="FILE", help="Form of the prompts.")
    ] = None,
    retriever: Annotated[
        str | None,
        typer.Option("--retriever", metavar="NAME", help="bm25, or a function of yours: module:function."),
    ] = None,
    glossary: Annotated[
        str | None,
        typer.Option("--glossary", metavar="FILE", help="Words that mean the same, a group a line."),
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="NUMBER", help="Of the split. Default: 0.")
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave bad questions out, and say how many.")
    ] = False,
    sets: Sets = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Prepare anew; unchanged documents are not read again.")
    ] = False,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make an index of documents, and from questions about them the rows to train on."""
    from selfaug.prepare_config import load_prepare_config

    settings = load_prepare_config(
        config,
        {
            "FOLDER": documents,
            "--questions": questions or None,
            "--output": output,
            "--model": model,
            "--chunk-tokens": chunk_tokens,
            "--passages": passages,
            "--follow-ups": follow_ups,
            "--completion": completion,
            "--template": template,
            "--retriever": retriever,
            "--glossary": glossary,
            "--seed": seed,
            "--skip-bad-rows": skip_bad_rows or None,
            "--overwrite": overwrite or None,
            "--offline": offline or None,
        },
        sets or [],
    )
    named = settings.documents.tokenizer
    # A retriever of the user's own may load a model by its name.
    all_here = settings.retrieval.retriever == "bm25" and (named is None or Path(named).exists())
    quiet_libraries(debug=debugging(ctx), offline=settings.run.offline or all_here)
    from selfaug.cli.preparation_view import show_preparation
    from selfaug.phases.prepare import prepare as run_preparation

    try:
        with RunProgress() as progress:
            record = run_preparation(settings, on_progress=progress.show)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("stopped; to go on, give the same command again.") from interrupt
    if as_json:
        print_json(record)
    else:
        show_preparation(record, Path(settings.run.output))


@app.command(epilog="Example: selfaug recall data/reports --questions questions.jsonl --passages 5")
def recall(
    ctx: typer.Context,
    prepared: Annotated[str, typer.Argument(metavar="FOLDER", help="The --output of selfaug prepare.")],
    questions: Annotated[
        list[str],
        typer.Option(
            "--questions", metavar="FILE", help="Question-answer pairs that name documents; may be repeated."
        ),
    ],
    passages: Annotated[
        int, typer.Option("--passages", metavar="NUMBER", min=1, help="How deep to look.")
    ] = 10,
    retriever: Annotated[
        str | None,
        typer.Option("--retriever", metavar="NAME", help="bm25, or module:function. Default: as prepared."),
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave bad questions out, and say how many.")
    ] = False,
    as_json: Json = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Measure how often the right passage is among the first that are found."""
    from selfaug.phases.prepared_folder import prepared_record, require_folder_name

    require_folder_name(prepared)
    used = retriever or prepared_record(Path(prepared))["retrieval"]["retriever"]
    # One of the user's own may load a model by its name.
    quiet_libraries(debug=debugging(ctx), offline=used == "bm25")
    if retriever is None:
        say_code_of_prepared(prepared)
    from selfaug.cli.preparation_view import show_recall
    from selfaug.phases.recall import recall as measure

    with RunProgress() as progress:
        found = measure(
            Path(prepared),
            questions,
            depth=passages,
            retriever=retriever,
            skip_bad_rows=skip_bad_rows,
            on_progress=progress.show,
        )
    if as_json:
        print_json(found)
    else:
        show_recall(found)


@app.command(epilog='Example: selfaug ask runs/reports "What was the revenue of North in 2023?"')
def ask(
    ctx: typer.Context,
    run: Run,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In words.")],
    prepared: Annotated[
        str | None,
        typer.Option(
            "--prepared", metavar="FOLDER", help="Documents; else those that the run was trained on."
        ),
    ] = None,
    passages: Annotated[
        int | None,
        typer.Option("--passages", metavar="NUMBER", min=1, help="In the prompt; else as prepared."),
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Let the base model answer too, first.")] = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="TOKENS", min=1, help="Longest answer.")
    ] = 256,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
    config: FlagsFile = None,
    debug: Debug = False,
) -> None:
    """Ask the tuned model a question about the documents; the answer comes with its sources."""
    if not question.strip():  # said before a model is loaded
        raise ConfigError(
            "the question is empty.", hint='put it in quotes: selfaug ask RUN "Which region grew?"'
        )
    quiet_libraries(offline=offline, debug=debugging(ctx))
    say_code_of_run(run, searches=True, prepared=prepared)
    from selfaug.cli.preparation_view import show_passages
    from selfaug.phases.ask import open_assistant

    assistant = open_assistant(
        run,
        prepared=prepared,
        passages=passages,
        max_new_tokens=max_new_tokens,
        device=device,
        offline=offline,
    )
    if as_json:
        answers = {name: assistant.ask(question, use_base=name == "base") for name in _models(base)}
        print_json(
            {
                "question": question,
                "passages": [asdict(passage) for passage in answers["tuned"].passages],
                "answers": {
                    name: {"text": answer.text, "cited": answer.cited, "invalid": answer.invalid}
                    for name, answer in answers.items()
                },
                "dropped": answers["tuned"].dropped,
                "outdated": assistant.documents.outdated,
            }
        )
        return
    invalid: dict[str, list[int]] = {}
    for name in _models(base):
        if base:
            typer.echo(f"{name} model:")
        answer = assistant.ask(
            question, use_base=name == "base", on_text=lambda text: typer.echo(printable(text), nl=False)
        )
        typer.echo()
        invalid[f"the {name} model's answer" if base else "the answer"] = answer.invalid
    typer.echo()
    show_passages(answer.passages, answer.cited)
    for whose, numbers in invalid.items():
        if numbers:
            named = ", ".join(f"[{number}]" for number in numbers)
            say(f"note: {whose} cites {named}; the prompt had {counted(len(answer.passages), 'passage')}.")
    if answer.dropped:
        say(f"note: passages that were found and didn't fit into the prompt: {answer.dropped}.")
    if outdated := assistant.documents.outdated_in_words():
        say(f"note: {outdated}.")


def _models(base: bool) -> list[str]:
    return ["base", "tuned"] if base else ["tuned"]
