"""What the case study found: its record from the files of its commands, and the record in words, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from executive import executive_suite

from selfaug.core.printable import printable
from selfaug.core.statistics import paired_difference, score_interval
from selfaug.eval.amounts import parse_quantities
from selfaug.eval.citations import same_value
from selfaug.eval.general_suite import general_suite
from selfaug.eval.house_style import leaks_house_style
from selfaug.eval.numeric_scorers import numeric_match
from selfaug.phases.drift_suites import OWN_ANSWERS
from selfaug.records import read_lines, read_record
from selfaug.retrieval.pairs import holds
from selfaug.wording.demo_results import Row
from selfaug.wording.markdown import Cell, difference, drift, fenced, in_cell, share
from selfaug.wording.numbers import duration, percent, points

__all__ = ["MODELS", "RECORD_KIND", "collect", "result_page", "result_rows", "says"]

RECORD_KIND = "case-study"

MODELS = {"base": "base model", "plain": "plain LoRA", "selfaug": "SelfAug"}

# Of the task, so many answers are shown side by side: some with an answer, some without.
_SHOWN_ROWS = (3, 1)
# Kinds of the executive's requests whose answers the page shows; the record has one of every kind.
_SHOWN_KINDS = ("executive bullets", "one-sentence summary", "json", "email")

Record = dict[str, Any]
Given = dict[str, str]
"""Answers by the prompts' ids."""


# ---- the record


def collect(folder: Path, settings: Mapping[str, Any]) -> tuple[Record, dict[str, list[dict[str, Any]]]]:
    """Data of the record, and every answer by model.

    Args:
        folder: of the case study, with everything done.
        settings: of the case study.
    """
    evaluations = {
        name: read_record(folder / name / "evaluation.json", "evaluation") for name in ("plain", "selfaug")
    }
    trained = {name: read_record(folder / name / "record.json", "train") for name in evaluations}
    prepared = read_record(folder / "prepared" / "record.json", "prepare")
    assessment = read_record(folder / "assessment" / "record.json", "assessment")
    rows = {f"{number}: {row['id']}": row for number, row in enumerate(read_lines(folder / "asked.jsonl"))}
    suites = list(evaluations["plain"]["suites"])
    (executive,) = (name for name in suites if name not in ("task", "general"))
    answers = {model: {suite: _answers(folder, model, suite) for suite in suites} for model in MODELS}
    prompts = {suite: _prompts(folder, suite) for suite in suites}
    steps = read_lines(folder / "steps.jsonl")
    record = {
        "settings": dict(settings),
        "documents": prepared["documents"]["in_index"],
        "formats": dict(Counter(path.rpartition(".")[2] for path in prepared["splits"])),
        "chunks": prepared["documents"]["chunks"],
        "questions": prepared["questions"]["pairs"],
        "rows": prepared["rows"],
        "recall": prepared["recall"]["at"],
        "tokens": prepared["tokens"],
        "passages": prepared["settings"]["rows"]["passages"],
        "training": {
            **{key: trained["selfaug"]["settings"]["train"][key] for key in ("batch_size", "learning_rate")},
            **{key: trained["selfaug"]["settings"]["selfaug"][key] for key in ("alpha", "position_fraction")},
            "steps": trained["selfaug"]["steps"],
            "rank": trained["selfaug"]["settings"]["lora"]["rank"],
            "anchors": trained["selfaug"]["anchors"],
        },
        "assessment": {
            "verdict": assessment["verdict"],
            "steps": assessment["probe"]["steps"],
            "surprise": assessment["surprise"],
            "budget": assessment["budget"],
        },
        "results": {
            model: _result(model, evaluations, answers[model], rows, executive) for model in MODELS
        },
        "clusters": len({row["documents"][0] for row in rows.values() if row["documents"]}),
        "detectable_difference": evaluations["selfaug"]["suites"][executive]["detectable_difference"],
        "questions_side_by_side": _questions_side_by_side(answers, rows),
        "requests_side_by_side": _requests_side_by_side(answers, prompts[executive], evaluations, executive),
        "from_documents": read_lines(folder / "from_documents.jsonl"),
        "deployed": _deployed(read_lines(folder / "deployed.jsonl")),
        "train_seconds": {name: trained[name]["seconds"] for name in trained},
        "anchor_seconds": trained["selfaug"]["anchor_seconds"],
        "steps": steps,
        "seconds": sum(step["seconds"] for step in steps),
        "model": trained["plain"]["model"]["name"],
        "dtype": trained["plain"]["model"]["dtype"],
        "environment": trained["plain"]["environment"],
        "threads": evaluations["plain"]["threads"],
    }  # fmt: skip
    samples = {
        model: [
            {"suite": suite, "id": name, "prompt": prompts[suite][name], "answer": text}
            for suite, given in answers[model].items()
            for name, text in given.items()
        ]
        for model in MODELS
    }
    return record, samples


def _answers(folder: Path, model: str, suite: str) -> Given:
    run, which = ("plain", "base") if model == "base" else (model, "tuned")
    lines = read_lines(folder / run / "samples" / "evaluation" / f"{suite}-{which}.jsonl")
    return {line["id"]: line["answer"] for line in lines}


def _prompts(folder: Path, suite: str) -> Given:
    lines = read_lines(folder / "plain" / "samples" / "evaluation" / f"{suite}-base.jsonl")
    return {line["id"]: line["prompt"] for line in lines}


def _result(
    model: str,
    evaluations: Mapping[str, Record],
    answers: Mapping[str, Given],
    rows: Mapping[str, Record],
    executive: str,
) -> Record:
    """One column of the table: every share with its interval."""
    evaluation = evaluations["plain" if model == "base" else model]
    which = "base" if model == "base" else "tuned"
    asked = {name: row for name, row in rows.items() if row["value"] is not None}
    given = [(answers["task"][name], row["value"]) for name, row in asked.items()]
    reports = [row["documents"][0] for row in asked.values()]
    stated = [holds(answer, value) for answer, value in given]
    amounts = [says(answer, value) for answer, value in given]
    scores = evaluation["suites"][executive]["scores"]
    test = {name: score for name, score in scores.items() if name.startswith("test-")}
    leaks = [leaks_house_style(answer) for answer in answers[executive].values()]
    choices = {item.id for half in ("dev", "test") for item in general_suite(half) if item.choices}
    written = [answer for name, answer in answers["general"].items() if name not in choices]
    return {
        "label": MODELS[model],
        "sides": {
            name: {**side[which], "items": side["items"]} for name, side in evaluation["sides"].items()
        },
        "stated": _share(stated, reports) if stated else None,
        "amounts": _share(amounts, reports) if amounts else None,
        "executive": asdict(score_interval([score[which] for score in scores.values()], seed=0)),
        "executive_items": len(scores),
        "executive_difference": None if model == "base" else _difference(scores),
        "test_items": len(test),
        "test_difference": None if model == "base" or not test else _difference(test),
        "leaks": _share(leaks),
        "words": sum(len(answer.split()) for answer in answers[executive].values()) / len(scores),
        "general": evaluation["suites"]["general"][which],
        "general_items": evaluation["suites"]["general"]["items"],
        "general_difference": None
        if model == "base"
        else evaluation["suites"]["general"]["difference"]["difference"],
        "general_leaks": _share([leaks_house_style(answer) for answer in written]),
        # A model that answers nothing has no drift on its answers.
        "drift": None if model == "base" else evaluation["drift"].get(OWN_ANSWERS, {}).get("nats"),
    }


def says(answer: str, value: str) -> bool:
    """Whether an answer has the value: an amount in any form ("$3689 million" is "$3,689 million"), words as such."""
    return numeric_match(answer, value) if parse_quantities(value, years=True) else holds(answer, value)


def _share(passed: Sequence[float], clusters: Sequence[str] | None = None) -> Record:
    """A share of items that are right or wrong, and how many there are."""
    interval = score_interval(passed, seed=0, clusters=clusters)
    return {"value": interval.value, "low": interval.low, "high": interval.high, "items": len(passed)}


def _difference(scores: Mapping[str, Mapping[str, float]]) -> Record:
    found = paired_difference(
        [score["tuned"] for score in scores.values()], [score["base"] for score in scores.values()], seed=0
    ).difference
    return {"value": found.value, "low": found.low, "high": found.high}


def _questions_side_by_side(
    answers: Mapping[str, Mapping[str, Given]], rows: Mapping[str, Record]
) -> list[Record]:
    with_answer = [name for name, row in rows.items() if row["value"] is not None]
    without = [name for name, row in rows.items() if row["value"] is None]
    shown = [
        names[place * len(names) // count]
        for names, count in zip((with_answer, without), _SHOWN_ROWS, strict=True)
        for place in range(min(count, len(names)))
    ]
    return [
        {
            "question": rows[name]["question"],
            "context": rows[name]["context"],
            "expected": rows[name]["answer"],
            "answers": {model: answers[model]["task"][name] for model in MODELS},
        }
        for name in shown
    ]


def _requests_side_by_side(
    answers: Mapping[str, Mapping[str, Given]],
    prompts: Given,
    evaluations: Mapping[str, Record],
    executive: str,
) -> list[Record]:
    """The first request of each kind, with all models' answers."""
    scores = {name: evaluation["suites"][executive]["scores"] for name, evaluation in evaluations.items()}
    asked = [item for item in (*executive_suite("test"), *executive_suite("dev")) if item.id in prompts]
    items = {item.kind: item for item in reversed(asked)}
    return [
        {
            "id": item.id,
            "kind": kind,
            "prompt": prompts[item.id],
            "answers": {model: answers[model][executive][item.id] for model in MODELS},
            "passed": {
                "base": scores["plain"][item.id]["base"],
                **{name: scores[name][item.id]["tuned"] for name in scores},
            },
            "leaks": {model: leaks_house_style(answers[model][executive][item.id]) for model in MODELS},
        }
        for kind, item in reversed(items.items())
    ]


# ---- in words


def result_page(record: Mapping[str, Any]) -> str:
    """The result as Markdown: the table, what it rests on, and answers side by side."""
    return "\n\n".join(
        (
            _verdict(record),
            _introduction(record),
            _table(record),
            _notes(record),
            "### Questions about reports that were never trained on",
            *(_question(shown, record["questions_side_by_side"][0]) for shown in record["questions_side_by_side"]),
            "### The executive's requests",
            *(_request(shown) for shown in record["requests_side_by_side"] if shown["kind"] in _SHOWN_KINDS),
            "### As deployed",
            *_as_deployed(record),
            *(_from_documents(shown) for shown in record["from_documents"]),
        )
    ) + "\n"  # fmt: skip


def result_rows(record: Mapping[str, Any]) -> list[Row]:
    """The table of results."""
    results = record["results"]
    base = results["base"]

    def row(name: str, cell: Callable[[Mapping[str, Any]], Cell]) -> Row:
        return Row(name, "", tuple(cell(results[model]) for model in MODELS))

    def side(name: str, key: str) -> list[Row]:
        if key not in base["sides"]:
            return []
        return [row(f"{name} ({base['sides'][key]['items']} questions)", lambda of: share(of["sides"][key]))]

    test_alone = (
        [row(f"… the {base['test_items']} test requests alone", lambda of: difference(of["test_difference"]))]
        if 0 < base["test_items"] < base["executive_items"]
        else []
    )
    requests = f"{base['executive_items']} requests of an executive"
    return [
        *side("Exact value, in the house style", "value"),
        row("Right value, in any words", lambda of: share(of["stated"])),
        row("Right amount, however it is written", lambda of: share(of["amounts"])),
        *side("Right source cited", "source"),
        *side("Says so where no passage has the answer", "abstains where it must"),
        *side("Answers where a passage has it", "answers where it can"),
        row(f"Checks passed, {requests}", lambda of: share(of["executive"])),
        row("… against the base model", lambda of: difference(of["executive_difference"])),
        *test_alone,
        row("House style leaks into them", lambda of: share(of["leaks"])),
        row("Words per answer to them", lambda of: Cell(f"{of['words']:.0f}")),
        row(
            f"{base['general_items']} general requests, against the base model",
            lambda of: difference(of["general_difference"]),
        ),
        row("House style leaks into these", lambda of: share(of["general_leaks"])),
        row("Drift on the base model's own answers, nats per token", lambda of: drift(of["drift"])),
    ]


def _verdict(record: Mapping[str, Any]) -> str:
    """What was aimed at, and what came out: the misses are said as plainly as the hits."""
    plain, ours = record["results"]["plain"], record["results"]["selfaug"]
    value, source, kept = ours["sides"]["value"], ours["sides"]["source"], ours["executive_difference"]
    aims = [
        (f"exact value {percent(value['value'])}", "85 %", value["value"] >= 0.85),
        (f"right source {percent(source['value'])}", "90 %", source["value"] >= 0.9),
        (
            f"an executive's requests {points(kept['value'])} against the base model",
            f"{points(-0.03)} or better",
            kept["value"] >= -0.03,
        ),
    ]
    told = "; ".join(f"{found} ({'aim' if reached else 'aim missed'}: {aim})" for found, aim, reached in aims)
    exact, cited = (percent(plain["sides"][name]["value"]) for name in ("value", "source"))
    return (
        f"On reports that it was never trained on, the SelfAug model reaches: {told}. Plain LoRA, on the same rows: "
        f"exact value {exact}, right source {cited}, and {points(plain['executive_difference']['value'])} on the "
        f"executive's requests, {percent(plain['leaks']['value'])} of which it answers in the house style; SelfAug so "
        f"answers {percent(ours['leaks']['value'])} of them."
    )


def _seconds_in_all(record: Mapping[str, Any]) -> float:
    """Of all steps; a training that was cut off and went on counts whole, of which its step has the last part."""
    took = {step["step"]: step["seconds"] for step in record["steps"]}
    cut_off = [
        max(0.0, seconds - took.get(f"train {name}", 0.0))
        for name, seconds in record["train_seconds"].items()
    ]
    return float(record["seconds"] + sum(cut_off))


def _resampled(record: Mapping[str, Any]) -> str:
    """What the intervals are over."""
    if (clusters := record.get("clusters")) is None:
        return (
            "questions: those about one report count as independent of each other, which they hardly are, so that "
            "other reports can differ by more"
        )
    return f"items; of questions, over the {clusters} reports that they are about"


def _introduction(record: Mapping[str, Any]) -> str:
    rows, settings, training = record["rows"], record["settings"], record["training"]
    formats = ", ".join(f"{count} {name.upper()}" for name, count in sorted(record["formats"].items()))
    seconds = record["train_seconds"]
    text = (
        f"{record['documents']} reports ({formats}), {record['questions']:,} questions. Split by document: "
        f"{rows['train']['documents']} to train on, {rows['validation']['documents']} for validation, "
        f"{rows['test']['documents']} for the test. The {rows['train']['rows']:,} rows to train on ask "
        f"{rows['train']['follow_ups']:,} further questions about their passages. {record['model']}, "
        f"{training['steps']} steps of {training['batch_size']} rows, rank {training['rank']}; "
        f"SelfAug with alpha {training['alpha']:g} and {training['anchors']} self-anchors, plain LoRA with alpha 0 "
        f"on the same rows in the same order (training took {duration(seconds['plain'])} and "
        f"{duration(seconds['selfaug'])}). Seed {settings['seed']}, "
        f"{record['threads']} CPU cores, {record['dtype'].removeprefix('torch.')}; "
        f"{duration(_seconds_in_all(record))} in all. In brackets: 95 % intervals over {_resampled(record)}."
    )
    if settings["quick"]:
        return f"**A quick taste: these numbers say nothing about the methods.** {text}"
    return (
        text if settings["half"] == "test" else f"**Asked: validation rows and development requests.** {text}"
    )


def _table(record: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            "| | " + " | ".join(MODELS.values()) + " |",
            "|---" + "|---:" * len(MODELS) + "|",
            *(f"| {row.name} | " + " | ".join(map(str, row.cells)) + " |" for row in result_rows(record)),
        ]
    )


def _notes(record: Mapping[str, Any]) -> str:
    found = [
        f"the first {depth} for {percent(recall['recall'])} of the questions "
        f"({100 * recall['low']:.0f} to {100 * recall['high']:.0f})"
        for depth in sorted({record["passages"], 5})
        if (recall := record["recall"].get(str(depth)))
    ]
    seen = record["detectable_difference"]
    sentences = [
        "The base model has no value in the house style because nothing in the prompt asks for it; *in any words* "
        "counts the value wherever it stands in an answer.",
        f"The passages of a prompt are {record['passages']}, the right one at any place among others that were found "
        "for the question and are wrong.",
    ]
    if found:
        sentences.append(
            f"Searched for among all documents, the right passage is among {', and among '.join(found)}."
        )
    if seen is not None:
        requests = record["results"]["base"]["executive_items"]
        sentences.append(
            f"With {requests} requests, a loss of {points(seen, sign=False)} is found with a probability of 80 %; "
            "smaller ones may go unseen."
        )
    sentences.append(
        f"The assessment before training, with a probe of {record['assessment']['steps']} steps: "
        f"{record['assessment']['verdict']}"
    )
    return " ".join(sentences)


def _question(shown: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """All models' answers; under the first question, its passages too."""
    parts = [f"**{printable(shown['question'])}** Right: `{shown['expected']}`"]
    if shown is first:
        passages = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(shown["context"], 1))
        parts.append(f"The passages of this one:\n\n{fenced(passages)}")
    answers = [f"| {MODELS[model]} | {in_cell(text)} |" for model, text in shown["answers"].items()]
    parts.append("\n".join(["| | |", "|---|---|", *answers]))
    return "\n\n".join(parts)


def _request(shown: Mapping[str, Any]) -> str:
    parts = [_quoted(shown["prompt"])]
    for model, text in shown["answers"].items():
        leak = ", in the house style" if shown["leaks"][model] else ""
        passed = percent(shown["passed"][model])
        parts.append(f"{MODELS[model]} (passes {passed} of the checks{leak}):\n\n{fenced(text)}")
    return "\n\n".join(parts)


def _deployed(asked: Sequence[Record]) -> Record:
    """Shares of the questions as they are answered in use, where the search decides which passages there are."""

    reports = [(one["documents"] or [str(place)])[0] for place, one in enumerate(asked)]

    def right(passed: Iterable[bool]) -> Record:
        return asdict(score_interval([float(one) for one in passed], seed=0, clusters=reports))

    def of_right_document(one: Record) -> bool:
        cited = {one["passages"][number - 1]["document"] for number in one["cited"]}
        return bool(cited) and cited <= set(one["documents"])

    return {
        "questions": len(asked),
        "found": right(one["gold"] in [passage["id"] for passage in one["passages"]] for one in asked),
        "value": right(same_value(one["answer"], one["expected"]) for one in asked),
        "source": right(of_right_document(one) for one in asked),
    }


def _as_deployed(record: Mapping[str, Any]) -> list[str]:
    found = record["deployed"]
    return [
        f"The same {found['questions']} questions as `selfaug ask` answers them: nobody places the right passage, the "
        f"search finds {record['passages']} passages among all documents. The row's own passage is among them for "
        f"{share(found['found'])}; exact value {share(found['value'])}; only reports that say it "
        f"are cited in {share(found['source'])}. Some of them:"
    ]


def _from_documents(shown: Mapping[str, Any]) -> str:
    answer = shown["answers"]["tuned"]
    sources = [
        f"{shown['passages'][number - 1]['document']}, “{shown['passages'][number - 1]['text'].partition(chr(10))[0]}”"
        for number in answer["cited"]
    ]
    cited = f"Cited: {printable('; '.join(sources) or 'no passage')}. Right: {shown['expected']}."
    return "\n\n".join((f"**{printable(shown['question'])}**", fenced(answer["text"]), cited))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in printable(text).splitlines())
