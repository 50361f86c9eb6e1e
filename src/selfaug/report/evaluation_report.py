"""The sections of an evaluation: scores, gate, drift, where it happens, and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfaug.core.library_versions import versions_in_words
from selfaug.core.trained_on import trained_on_in_words
from selfaug.eval.general_item import FITTING_SCORE
from selfaug.records import read_lines
from selfaug.report.document import (
    Answer,
    Answers,
    Block,
    Cell,
    HeatedText,
    Outcome,
    Section,
    Table,
    Text,
    Tile,
)
from selfaug.report.kept_answers import read_answers
from selfaug.wording.evaluation_words import (
    bound_in_words,
    cut_off_in_words,
    cut_off_warnings,
    forecast_in_words,
    gates_before_in_words,
    half_in_words,
    level_in_words,
    step_in_words,
    unknown_no_answers_in_words,
)
from selfaug.wording.numbers import duration, nats, nats_span, percent, points, span

__all__ = [
    "LARGE_LOSS",
    "answer_badges",
    "bound_block",
    "cut_off_blocks",
    "evaluation_outcome",
    "evaluation_provenance",
    "evaluation_sections",
    "evaluation_tiles",
    "evaluation_verdict",
    "suites_block",
]

LARGE_LOSS = 0.1
"""A loss of the general score that must be ruled out before it is called kept, a share."""

# Of each suite, so many items are shown: those that changed first.
_SHOWN_ITEMS = 20

# Of so many suites, one request stands before everything else.
_SUITES_FIRST = 3

# Of each heated text, so many tokens are given with their numbers: for who can't see the heat.
_NAMED_TOKENS = 5

_OUTCOMES = {"pass": "✓ pass", "fail": "✗ fail", "inconclusive": "◐ inconclusive"}


def evaluation_sections(
    record: Mapping[str, Any], folder: Path, *, tuned: str = "tuned model", samples_folder: str
) -> list[Section]:
    """What two models scored, and where they differ.

    Args:
        record: data of the evaluation's record.
        folder: with the answers, and the texts that drifted most; what is not there is left out.
        tuned: what the tuned model is called.
        samples_folder: the folder as readers of the report find it.
    """
    scorer = record["settings"]["scorer"]
    scores: list[Block] = [
        suites_block(record["suites"], scorer, tuned=tuned),
        *cut_off_blocks(record["suites"], tuned=tuned),
    ]
    if (when := step_in_words(record["settings"])) is not None:
        scores.append(Text(f"The {tuned} is as it was {when}.", "! checkpoint"))
    if (half := half_in_words(record["settings"])) is not None:
        scores.append(Text(f"{half[0].upper()}{half[1:]}.", "! development half"))
    if (worth := trained_on_in_words(record.get("trained_on"))) is not None:
        scores.append(Text(f"{worth[0].upper()}{worth[1:]}.", "! trained on"))
    if record["also"]:
        others = {f"the job ({name})": one for name, one in record["also"].items()}
        scores.append(suites_block(others, scorer, tuned=tuned, title="The job, by other scorers"))
    if record["sides"]:
        sides = {f"the job: {name}": side for name, side in record["sides"].items()}
        scores.append(suites_block(sides, scorer, tuned=tuned, title="The job, side by side"))
        if (unknown := unknown_no_answers_in_words(record)) is not None:
            scores.append(Text(f"{unknown[0].upper()}{unknown[1:]}.", "! words for no answer"))
    sections = [
        Section(
            "Scores",
            "Both models were asked the same. In small print: 95 % intervals over the items, or over clusters of them "
            "where it is known which hang together: questions about one document, one request in several forms.",
            scores,
        ),
    ]
    benchmarks = [row for tables in record["benchmarks"].values() for row in _benchmark_rows(tables)]
    if benchmarks:
        sections.append(
            Section("Standard benchmarks", "As lm-eval's table has them.", [_benchmarks(benchmarks, tuned)])
        )
    if record["gate"] is not None:
        bounds = [bound_block(one) for one in record["gate"]["bounds"]]
        before = gates_before_in_words(record.get("gates_before", []))
        about = "" if before is None else f"{before[0].upper()}{before[1:]}."
        sections.append(Section(f"Gate: {record['gate']['outcome']}", about, bounds))
    sections.append(_drift_section(record, tuned))
    drifted = folder / "drift.jsonl"
    if drifted.exists() and (heated := _heated(read_lines(drifted))):
        sections.append(heated)
    first, more = _sample_blocks(record, folder, tuned, samples_folder)
    if first:  # they are what everybody understands
        about = f"Of each suite, the request whose score the {tuned} lost most, or else gained."
        sections.insert(0, Section("The same request, answered by both", about, first))
    if more:
        about = f"What the {tuned} lost comes first, then what it gained, then the others."
        sections.append(Section("More answers, side by side", about, more))
    return sections


def evaluation_verdict(record: Mapping[str, Any]) -> str:
    """What the model learned, and what it forgot, as far as the items can tell; when, if its training went on from
    there; whether rows were trained on; and of which half the general requests are, if settings may be chosen by it.
    """
    verdict, settings = _verdict_of_numbers(record), record.get("settings", {})
    if (when := step_in_words(settings)) is not None:
        verdict = f"{when[0].upper()}{when[1:]}: {verdict[0].lower()}{verdict[1:]}"
    half = half_in_words(settings)
    return verdict if half is None else f"{verdict} {half[0].upper()}{half[1:]}."


def _verdict_of_numbers(record: Mapping[str, Any]) -> str:
    general = record["suites"]["general"]["difference"]["difference"]
    lost = points(abs(general["value"]), sign=False)
    if general["high"] < 0:
        forgotten = {"low": -general["high"], "high": -general["low"]}
        kept = f"it forgot {lost} of its general score ({span(forgotten)})".replace("+", "")
    elif general["low"] > 0:
        kept = f"it gained {lost} in general ({span(general)})"
    else:
        nor = "" if _is_kept(record) else ", nor that it was kept"
        kept = f"no change of its general score was shown{nor} ({points(general['value'])}, {span(general)})"
    if "task" not in record["suites"]:
        return f"Without held-out rows, only general requests were asked: {kept}."
    task = record["suites"]["task"]["difference"]["difference"]
    if task["low"] > 0:
        learned = f"The model learned its job ({points(task['value'])}, {span(task)})"
    elif task["high"] < 0:
        learned = f"The model became worse at its job ({points(task['value'])}, {span(task)})"
    else:
        learned = f"It was not shown that the model learned its job ({points(task['value'])}, {span(task)})"
    worth = trained_on_in_words(record.get("trained_on"))
    remembered = "" if worth is None else f" {worth[0].upper()}{worth[1:]}."
    return f"{learned}; {kept}.{remembered}"


def evaluation_outcome(record: Mapping[str, Any]) -> Outcome:
    """Learned and nothing shown to be forgotten is good, or open where a large loss may have gone unseen; one of both
    is mixed, none bad; a gate overrules. But one that says nothing of the job is mixed where it passes, and nothing was
    shown to be learned. What is good on rows that were trained on, on general requests of the development half, or
    before the training ended, is open, too.
    """
    outcome, settings = _outcome_of_numbers(record), record.get("settings", {})
    limits = trained_on_in_words(record.get("trained_on")), half_in_words(settings), step_in_words(settings)
    return "open" if outcome == "good" and any(limits) else outcome


def _outcome_of_numbers(record: Mapping[str, Any]) -> Outcome:
    suites, gate = record["suites"], record["gate"]
    learned = "task" in suites and suites["task"]["difference"]["difference"]["low"] > 0
    if gate is not None:
        outcomes: dict[str, Outcome] = {"pass": "good", "fail": "bad", "inconclusive": "open"}
        outcome = outcomes[gate["outcome"]]
        # Whatever learns nothing stays within every bound on what is forgotten.
        for_nothing = "task" in suites and not learned and not _is_on_the_job(gate)
        return "mixed" if outcome == "good" and for_nothing else outcome
    forgotten = suites["general"]["difference"]["difference"]["high"] < 0
    if "task" not in suites:
        return "bad" if forgotten else "open"
    if learned and not forgotten:
        return "good" if _is_kept(record) else "open"
    return "bad" if forgotten and not learned else "mixed"


def _is_on_the_job(gate: Mapping[str, Any]) -> bool:
    return any(one["name"] in ("task gain", "task score") for one in gate["bounds"])


def _is_kept(record: Mapping[str, Any]) -> bool:
    """Whether a gain was shown, or a large loss ruled out, of a base model that had so much to lose."""
    general = record["suites"]["general"]
    low = general["difference"]["difference"]["low"]
    # There is no smallest change that is found where so few were asked that none would be seen.
    could_tell = general["detectable_difference"] is not None and general["base"]["value"] > LARGE_LOSS
    return bool(low > 0 or (low >= -LARGE_LOSS and could_tell))


def evaluation_tiles(record: Mapping[str, Any], *, tuned: str = "tuned") -> list[Tile]:
    """Task gain, retention and drift.

    Args:
        record: data of the evaluation's record.
        tuned: what the tuned model is called, if it isn't the run's.
    """
    suites = record["suites"]
    whose = [] if tuned == "tuned" else [f"of the {tuned}"]
    tiles = []
    if "task" in suites:
        gain = suites["task"]["difference"]["difference"]
        of_base, of_tuned = (percent(suites["task"][model]["value"]) for model in ("base", "tuned"))
        models = f"base {of_base}, {tuned} {of_tuned}"
        notes = [f"95 %: {span(gain)}", models, *_known_rows(record.get("trained_on"))]
        tiles.append(Tile("Task gain", points(gain["value"]), notes))
    general = suites["general"]
    lost = general["difference"]["difference"]
    half = half_in_words(record.get("settings", {}))
    of_general = [*whose, *([] if half is None else ["! development half: expect less on others"])]
    if (kept := general["retention"]) is not None:
        interval = f"95 %: {100 * kept['low']:.0f} to {100 * kept['high']:.0f} %"
        notes = [interval, f"general score {points(lost['value'])} ({span(lost)})", *of_general]
        tiles.append(Tile("Retention", percent(kept["value"]), notes))
    else:
        tiles.append(Tile("General score", points(lost["value"]), [f"95 %: {span(lost)}", *of_general]))
    own = next(reversed(record["drift"].items()), None)
    if own is not None:
        name, drift = own
        tiles.append(Tile("Drift", nats(drift["nats"]["value"]), ["nats per token", f"on {name}", *whose]))
    return tiles


def _known_rows(found: Mapping[str, Any] | None) -> list[str]:
    """What is said in few words of rows that were trained on; see `trained_on_in_words`."""
    if trained_on_in_words(found) is None or found is None:
        return []
    return [
        "! not known whether on rows of the training"
        if found["rows"] is None
        else f"! {found['rows']:,} of {found['of']:,} rows were trained on"
    ]


def evaluation_provenance(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """On what was asked, with which weights, where."""
    settings, level = record["settings"], record["level"]
    half = "test" if settings["half"] == "test" else "development"
    asked = f"{half} half" + (f", level {level['level']}" if level.get("level") else ", all levels")
    if level.get("scores"):
        why = (
            f"the hardest of which the base model passes {percent(FITTING_SCORE)}"
            if max(level["scores"].values()) >= FITTING_SCORE
            else f"the easiest; the base model passes {percent(FITTING_SCORE)} of none"
        )
        asked += f": {why} (development items: {level_in_words(level)})"
    chosen = (
        "Nothing should have been chosen on these items."
        if settings["half"] == "test"
        else "These are development items, on which settings may have been chosen: expect less on others."
    )
    step = settings["step"]
    weights = "of the finished run" if step is None else f"of the checkpoint at step {step}"
    where = f"{record['device']}, {record['threads']} threads, {duration(record['seconds'])}"
    if "versions" in record:  # earlier ones have none
        where += f"; {versions_in_words(record, 'the evaluation')}"
    return [
        ("general requests", asked),
        ("what is chosen on what", chosen),
        ("evaluated weights", f"{weights}, SHA-256 {settings['weights'][:16]}…"),
        ("evaluated on", where),
    ]


def answer_badges(score: float | None, *, leaks: bool = False) -> list[str]:
    """What is said of an answer beside it."""
    return [
        *([] if score is None else [f"score {percent(score)}"]),
        *(["⚑ in the job's style"] if leaks else []),
    ]


def bound_block(bound: Mapping[str, Any], *, before: str = "base model") -> Text:
    """One bound of a gate and what became of it; arguments as of `bound_in_words`."""
    return Text(bound_in_words(bound, before=before), _OUTCOMES[bound["outcome"]])


def cut_off_blocks(suites: Mapping[str, Any], *, tuned: str, base: str = "base model") -> list[Text]:
    """How many answers were cut off at their limit, and what to do where they are many."""
    told = cut_off_in_words(suites, base=base, tuned=tuned)
    shares = [] if told is None else [Text(f"{told[0].upper()}{told[1:]}.")]
    return [*shares, *(Text(f"{warning}.", "! cut off") for warning in cut_off_warnings(suites))]


def suites_block(
    suites: Mapping[str, Any],
    scorer: str,
    *,
    tuned: str,
    base: str = "base model",
    title: str = "Scores by suite",
) -> Table:
    """Both models' scores, retention and the paired difference, a row a suite."""
    return Table(
        title,
        [
            "suite",
            "items",
            base,
            tuned,
            "retention",
            "difference, item by item",
            "change found in 80 % of cases",
        ],
        [_suite_row(name, suite, scorer) for name, suite in suites.items()],
    )


def _suite_row(name: str, suite: Mapping[str, Any], scorer: str) -> list[Cell]:
    kept, seen = suite["retention"], suite["detectable_difference"]
    return [
        Cell(f"the job ({scorer})" if name == "task" else name),
        Cell(f"{suite['items']:,}"),
        _share(suite["base"]),
        _share(suite["tuned"]),
        Cell("–") if kept is None else _share(kept),
        Cell(points(suite["difference"]["difference"]["value"]), span(suite["difference"]["difference"])),
        Cell("not known" if seen is None else points(seen, sign=False)),
    ]


def _share(interval: Mapping[str, float]) -> Cell:
    return Cell(percent(interval["value"]), f"{100 * interval['low']:.0f} to {100 * interval['high']:.0f}")


def _benchmarks(rows: Sequence[Mapping[str, Any]], tuned: str) -> Table:
    return Table(
        "Standard benchmarks",
        ["task", "version", "filter", "n-shot", "metric", "better", "base model", tuned],
        [
            [
                Cell(row["task"]),
                Cell(str(row["version"])),
                Cell(row["filter"]),
                Cell(str(row["n_shot"])),
                Cell(row["metric"]),
                Cell(
                    "–"
                    if row["higher_is_better"] is None
                    else "↑ higher"
                    if row["higher_is_better"]
                    else "↓ lower"
                ),
                *row["models"],
            ]
            for row in rows
        ],
    )


def _benchmark_rows(tables: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of lm-eval's table, with the values of both models."""
    of_tuned = {(row["task"], row["filter"], row["metric"]): row for row in tables["tuned"]["rows"]}
    return [
        {
            **row,
            "models": [_metric(one) for one in (row, of_tuned[row["task"], row["filter"], row["metric"]])],
        }
        for row in tables["base"]["rows"]
    ]


def _metric(row: Mapping[str, Any]) -> Cell:
    """A metric's value, and its standard error if lm-eval has one."""
    value = row["value"]
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return Cell(shown, "" if row["stderr"] is None else f"\N{PLUS-MINUS SIGN} {row['stderr']:.4f}")


def _drift_section(record: Mapping[str, Any], tuned: str) -> Section:
    blocks: list[Block] = [
        Table(
            "Drift by text",
            ["on", "tokens", "nats per token", "same first choice", "by tenths of the text"],
            [
                [
                    Cell(name),
                    Cell(f"{drift['tokens']:,}"),
                    Cell(nats(drift["nats"]["value"], 4), nats_span(drift["nats"], 4)),
                    Cell(percent(drift["top1_agreement"])),
                    Cell("", _tenths(drift["by_tenth"]), _bars(drift["by_tenth"])),
                ]
                for name, drift in record["drift"].items()
            ],
            "By tenths: from the beginning of the text to its end.",
        )
    ]
    if forecast := record["forecast"]:
        words = forecast_in_words(forecast)
        blocks.append(Text(f"{words[0].upper()}{words[1:]}."))
    about = f"How far the {tuned}'s next-token distributions are from the base model's: KL(base ‖ tuned), in nats."
    return Section("Drift", about, blocks)


def _tenths(by_tenth: Sequence[float | None]) -> str:
    return " · ".join("–" if value is None else f"{value:.3f}" for value in by_tenth)


def _bars(by_tenth: Sequence[float | None]) -> list[int]:
    """Heights in percent of the highest tenth."""
    highest = max((value for value in by_tenth if value is not None), default=0.0)
    return [round(100 * (value or 0.0) / highest) if highest > 0 else 0 for value in by_tenth]


def _heated(texts: Sequence[Mapping[str, Any]]) -> Section | None:
    """The texts that drifted most; the first of each kind is shown at once."""
    kinds: set[str] = set()
    blocks = []
    for text in texts:
        first = text["kind"] not in kinds
        kinds.add(text["kind"])
        title = f"{text['kind']}: {text['id']}"
        tokens, nats = text["tokens"], text["nats"]
        blocks.append(HeatedText(title, tokens, nats, _farthest(tokens, nats), first))
    if not blocks:
        return None
    about = (
        "The texts that drifted most, token by token: the stronger the ground, the farther the model's expectation of "
        "this token has moved (full at 1 nat; hold the pointer over a token for its number). What is grey was not "
        "measured."
    )
    return Section("Where the model changed", about, blocks)


def _farthest(tokens: Sequence[str], nats: Sequence[float | None]) -> str:
    """The tokens that moved most, with their nats."""
    measured = [(value, token) for token, value in zip(tokens, nats, strict=True) if value is not None]
    most = sorted(measured, key=lambda one: -one[0])[:_NAMED_TOKENS]
    return ", ".join(f"{_quoted(token)} {value:.2f}" for value, token in most)


def _quoted(token: str) -> str:
    if token.strip():
        return f"“{token.strip()}”"
    return "line break" if "\n" in token else "space"


def _sample_blocks(
    record: Mapping[str, Any], folder: Path, tuned: str, samples_folder: str
) -> tuple[list[Block], list[Block]]:
    """Of each suite the first request, and the next ones."""
    first: list[Block] = []
    more: list[Block] = []
    for name, suite in record["suites"].items():
        chosen = _changed_first(suite["scores"])[:_SHOWN_ITEMS]
        kept = read_answers([folder / f"{name}-{model}.jsonl" for model in ("base", "tuned")], chosen)
        samples = [one for one in chosen if one in kept]
        suite_name = "the job" if name == "task" else name
        for one in samples:
            scores, (prompt, (base_answer, tuned_answer)) = suite["scores"][one], kept[one]
            block = Answers(
                f"{suite_name}, {one}: base {percent(scores['base'])}, {tuned} {percent(scores['tuned'])}",
                prompt,
                [
                    Answer("base", "base model", base_answer, answer_badges(scores["base"])),
                    Answer("selfaug", tuned, tuned_answer, answer_badges(scores["tuned"])),
                ],
                opened=one == samples[0],
            )
            (first if one == samples[0] and len(first) < _SUITES_FIRST else more).append(block)
        if samples and (left := len(suite["scores"]) - len(samples)) > 0:
            more.append(Text(f"{left:,} more of {suite_name} are in {samples_folder}/."))
    return first, more


def _changed_first(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Ids of what the tuned model lost, the most first, then of what it gained, then of the others."""

    def key(one: str) -> tuple[int, float]:
        change = scores[one]["tuned"] - scores[one]["base"]
        if change:
            return (0 if change < 0 else 1, -abs(change))
        return (2, scores[one]["tuned"])

    return sorted(scores, key=key)
