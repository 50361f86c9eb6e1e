"""The demo's page, its pictures and its verdict, from records made by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from page_checks import Page

from demo_records import EXECUTIVE, entry, interval, record
from selfaug.report.demo_page import demo_chart_svg, demo_page
from selfaug.wording.demo_results import demo_rows, demo_verdict
from selfaug.wording.numbers import duration, points

MOST_BYTES = 500_000

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)"> <a href="javascript:alert(1)">',
    "</div></article></main><style>body{display:none}</style>",
    "{{ record }} {% include 'x' %} &amp; &#x3c;",
    "\x1b[2J\x00\x08\r bell\x07 \u202eevil\u2066 \u2028 \ufeff \ud800",
]


def answered(*texts: str) -> list[dict[str, Any]]:
    return [entry(f"kind {number}", text, text, text, text) for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def page() -> str:
    return demo_page(record([EXECUTIVE, *answered("one", "two")]))


def test_the_page_is_one_file_that_asks_for_nothing_and_runs_nothing(page: str) -> None:
    parsed = Page(page)
    assert page.lstrip().startswith("<!doctype html>")
    assert not parsed.open
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "iframe", "object", "img", "base", "form"}
    for _, attributes in parsed.tags:
        assert not attributes.keys() & {"src", "href", "xlink:href", "srcset", "action"}
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?://|@import|url\(", page)
    assert "default-src 'none'" in page
    assert len(page.encode()) < MOST_BYTES


def test_the_page_begins_with_the_verdict_and_has_every_part(page: str) -> None:
    text = " ".join(Page(page).text.split())
    verdict = " ".join(demo_verdict(record()).text.split())
    parts = [
        verdict,
        "Job: exact answers",
        "General checks passed",
        "Summarize these key findings in a bulleted list for an executive",
        "The job against everything else",
        "Drift while training",
        "Learning the job",
        "Alignment loss while training",
        "Other general requests",
        "Alpha and all other settings were chosen on development items",
        "12 min 21 s",
    ]
    places = [text.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places == sorted(places)
    assert text.count("ANSWER: 840 survey forms | SOURCE: [1]") == 1


def test_every_picture_is_xml_with_both_methods_and_a_table_of_its_numbers(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(pictures) == 4
    for picture in pictures:
        assert "SelfAug" in "".join(ElementTree.fromstring(picture).itertext())
    assert ["plain LoRA" in picture for picture in pictures] == [True, True, True, False]
    tables = re.findall(r'<table class="data">.*?</table>', page, re.S)
    assert [table.count("<tr>") - 1 for table in tables] == [3, 5, 60, 60]
    assert "<td>0.7340</td>" in tables[1]


def test_the_picture_for_the_readme_is_an_svg_file() -> None:
    tree = ElementTree.fromstring(demo_chart_svg(record()))
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join(tree.itertext())
    assert "exact answers on the job (%)" in text
    assert "drift (nats per token)" in text


def without_curves(*texts: str) -> str:
    """A page with these answers. Pictures take most of a page's time, so there is only one."""
    return demo_page(record(answered(*texts), steps=0))


def test_a_models_text_is_shown_and_never_obeyed() -> None:
    harmless = Page(without_curves(*["x"] * len(HOSTILE)))
    hostile = without_curves(*HOSTILE)
    parsed = Page(hostile)
    assert parsed.tags == harmless.tags
    assert "".join(parsed.text.split()).count("<script>alert(1)</script>") == 4
    assert "{{ record }} {% include 'x' %} &amp; &#x3c;" in parsed.text
    assert not [c for c in hostile if ord(c) < 32 and c != "\n"]
    assert not set(hostile) & set("\u202e\u2066\u2028\ufeff\ud800")
    hostile.encode()


def test_control_characters_are_made_visible() -> None:
    text = Page(without_curves("\x1b[2J\u202eevil")).text
    assert text.count(r"\x1b[2J\u202eevil") == 4


def test_right_to_left_text_keeps_to_its_own_box() -> None:
    parsed = Page(without_curves("שלום עולם, هذا نص"))
    assert parsed.text.count("שלום עולם, هذا نص") == 4
    boxes = [attributes for _, attributes in parsed.tags if attributes.get("class") == "text"]
    assert boxes
    assert all(box.get("dir") == "auto" for box in boxes)


@pytest.mark.parametrize("character", ["<", "\U0001f600", "\x00"])
def test_long_answers_are_cut_off_and_the_page_says_so(character: str) -> None:
    one_megabyte = character * 1_000_000
    html = without_curves(*[one_megabyte] * 20)
    assert len(html.encode()) < MOST_BYTES
    assert Page(html).text.count("of 1,000,000 characters") == 4 * 20


def test_a_long_run_is_drawn_with_at_most_a_hundred_steps() -> None:
    long = record()
    for curves in long["curves"].values():
        curves["steps"] = [{"step": step, "nll": 1.0, "alignment_loss": 0.1} for step in range(20_000)]
    html = demo_page(long)
    assert len(html.encode()) < MOST_BYTES
    assert html.count("<tr>") < 300


def test_pictures_without_data_and_answers_that_are_not_there_are_left_out() -> None:
    html = demo_page(record([], steps=0))
    assert html.count("<svg") == 1
    assert "Other general requests" not in html
    assert "One general request" not in html


@pytest.mark.parametrize(
    ("changed", "outcome", "said"),
    [
        ({}, "kept", "97 % of its general answers are in the job's style, after SelfAug only 3 %."),
        ({"leaks": interval(0.0, 0.0)}, "kept", "in the job's style, after SelfAug none."),
        ({"leaks": interval(0.15)}, "partly", "protects other work only in part"),
        ({"leaks": interval(0.80, 0.18)}, "not shown", "too close to tell apart"),
        ({"leaks": interval(1.2)}, "not shown", "harmed other work more than plain LoRA"),
        (
            {"difference": {"difference": interval(-0.08)}},
            "partly",
            "on the general checks SelfAug still lost 8.0 points.",
        ),
        (
            {"exact": interval(0.8), "exact_against_plain": {"difference": interval(-0.15)}},
            "partly",
            "SelfAug taught the model its job less well than plain LoRA (SelfAug 80 %, plain LoRA 95 %",
        ),
        (
            {"exact": interval(0.99), "exact_against_plain": {"difference": interval(0.04)}},
            "kept",
            "SelfAug taught the model its job better than plain LoRA",
        ),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_numbers_say(changed: dict[str, Any], outcome: str, said: str) -> None:
    verdict = demo_verdict(record(selfaug=changed))
    assert verdict.outcome == outcome
    assert said in verdict.text.replace("\N{NO-BREAK SPACE}", " ")
    assert verdict.text.count(". ") == 0  # one sentence


def test_a_run_that_taught_nothing_shows_nothing() -> None:
    few = {"exact": interval(0.1)}
    verdict = demo_verdict(record(plain=few, selfaug=few))
    assert verdict.outcome == "not learned"
    assert verdict.text.startswith("Neither method taught the model its job")


def test_the_table_has_intervals_and_says_what_was_not_measured() -> None:
    rows = {row.name: row.cells for row in demo_rows(record())}
    plain_text = [cell.value.replace("\N{NO-BREAK SPACE}", " ") for cell in rows["Checks against base"]]
    assert plain_text == ["0", "\N{MINUS SIGN}23.0 points", "\N{MINUS SIGN}1.0 points"]
    assert rows["Checks against base"][2].interval == "\N{MINUS SIGN}4.0 to +2.0"
    assert rows["House style leaks"][1].interval == "95 to 99"
    assert rows["Training time"][0].value == "–"


def test_numbers_are_rounded_as_people_read_them() -> None:
    assert points(-0.0004).startswith("0.0")
    assert duration(59.4) == "59\N{NO-BREAK SPACE}s"
    assert duration(59.6).startswith("1\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}00")
    assert duration(3 * 3600 - 1) == "179\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}59\N{NO-BREAK SPACE}s"
    assert duration(25 * 3600 - 1) == "25\N{NO-BREAK SPACE}h\N{NO-BREAK SPACE}00\N{NO-BREAK SPACE}min"


def test_times_of_a_demo_that_was_cut_off_are_of_all_of_it() -> None:
    html = demo_page({**record([], steps=0), "cut_off": True})
    assert "and times count on, but for that of a process that was killed" in html
    assert "count on" not in demo_page(record([], steps=0))


def test_the_template_is_in_the_package() -> None:
    import selfaug.report

    assert (Path(selfaug.report.__file__).parent / "demo_page.html.j2").is_file()
