"""The case study's raw material: its files say what is asked about them, and its checks tell good answers from bad."""

from __future__ import annotations

import html
import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import docx
import openpyxl
import pytest

from scripts import script
from selfaug.eval.general_item import GeneralItem, score_general
from selfaug.phases.prepare import prepare
from selfaug.prepare_config import load_prepare_config
from selfaug.records import write_lines
from selfaug.retrieval.glossary import read_glossary
from selfaug.retrieval.near_copies import near_copies, sketch_of
from selfaug.retrieval.read_document import read_document
from selfaug.retrieval.tokens import Words
from selfaug.retrieval.xlsx_format import cell_text

CASE_STUDY = Path(__file__).parents[1] / "examples" / "case_study"


reports = script("examples/case_study/reports.py")
questions = script("examples/case_study/questions.py")
executive = script("examples/case_study/executive.py")
world = script("examples/case_study/world.py")
case_results = script("examples/case_study/case_results.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("case_reports")


@pytest.fixture(scope="module")
def written(folder: Path) -> list[Any]:
    result: list[Any] = reports.write_reports(folder)
    return result


@pytest.fixture(scope="module")
def asked(written: list[Any]) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = questions.questions(written)
    return result


@pytest.fixture(scope="module")
def drafts() -> list[Any]:
    result: list[Any] = reports.draft_reports()
    return result


def flat(text: str) -> str:
    return " ".join(text.split())


def text_of_file(path: Path) -> str:
    """What a plain reader finds in it."""
    if path.suffix == ".docx":
        document = docx.Document(str(path))
        cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
        return flat("\n".join([*(paragraph.text for paragraph in document.paragraphs), *cells]))
    if path.suffix == ".xlsx":
        book = openpyxl.load_workbook(path)
        rows = [row for sheet in book.worksheets for row in sheet.iter_rows()]
        shown = [[cell_text(cell.value, cell.number_format) for cell in row] for row in rows]
        return flat("\n".join(" | ".join(filter(None, row)) for row in shown))
    text = path.read_text(encoding="utf-8")
    return flat(html.unescape(re.sub(r"<[^>]+>", " ", text)) if path.suffix == ".html" else text)


# ---- reports


def test_the_collection_is_large_and_mixed(written: list[Any], folder: Path) -> None:
    assert len(written) >= 72
    assert len({report.path for report in written}) == len(written)
    assert {str(path.relative_to(folder).as_posix()) for path in folder.rglob("*.*")} == {
        report.path for report in written
    }
    formats = Counter(report.format for report in written)
    assert set(formats) == {"pdf", "docx", "xlsx", "html", "md"}
    assert min(formats.values()) >= 12
    companies = Counter(
        report.company for report in written if report.period.startswith("FY") and report.company
    )
    assert 18 <= len(companies) <= 24
    assert set(companies.values()) == {3, 4}
    assert sum(report.period.startswith("Q") for report in written) >= 12
    assert sum(report.path.startswith("sectors/") for report in written) >= 5
    assert sum(report.path.startswith("memos/") for report in written) >= 3


def test_titles_name_company_and_period(written: list[Any]) -> None:
    for report in written:
        assert report.period[-4:] in report.title
        assert (report.company or "") in report.title


def test_sections_are_short(drafts: list[Any]) -> None:
    for draft in drafts:
        headings = [section.heading for section in draft.sections]
        assert len(set(headings)) == len(headings), draft.path
        for section in draft.sections:
            tables = [block for block in section.blocks if hasattr(block, "rows")]
            assert section.words <= 90, (draft.path, section.heading)
            assert tables or section.words >= 40, (draft.path, section.heading)
            for table in tables:
                assert len(table.rows) <= 7
                assert len({len(row) for row in table.rows}) == 1


def test_companies_have_key_findings_with_numbers(written: list[Any]) -> None:
    for report in written:
        if report.company:
            (found,) = [section for section in report.sections if section.heading.startswith("Key findings")]
            lines = found.text.splitlines()
            assert 3 <= len(lines) <= 5
            assert all(re.search(r"\d", line) for line in lines)


def test_the_same_seed_gives_the_same_bytes(drafts: list[Any], tmp_path: Path) -> None:
    assert reports.draft_reports() == drafts
    write = script("examples/case_study/report_files.py").write_draft
    for draft in {draft.format: draft for draft in drafts}.values():
        for name in ("one", "two"):
            write(draft, tmp_path / name)
        assert (tmp_path / "one" / draft.path).read_bytes() == (tmp_path / "two" / draft.path).read_bytes()


def values(documents: list[Any]) -> dict[Any, str]:
    """The value of each figure; two values of one figure are an error."""
    found: dict[Any, set[str]] = defaultdict(set)
    for draft in documents:
        for section in draft.sections:
            for one in section.mentions:
                found[one.subject, one.metric, one.scope, str(one.period)].add(one.value)
    assert {key: value for key, value in found.items() if len(value) > 1} == {}
    return {key: value for key, (value,) in found.items()}


def test_seeds_change_words_and_never_figures(drafts: list[Any]) -> None:
    first, second = drafts, reports.draft_reports(seed=1)
    assert [draft.path for draft in first] == [draft.path for draft in second]
    assert sum(one.sections == other.sections for one, other in zip(first, second, strict=True)) == 0
    one, other = values(first), values(second)
    shared = one.keys() & other.keys()
    assert len(shared) > 1000
    assert {key: one[key] for key in shared} == {key: other[key] for key in shared}


def test_sums_and_ratios_hold() -> None:
    def number(metric: str, year: int, quarter: int | None = None, scope: str | None = None) -> float:
        figure = world.Figure(company.name, metric, world.Period(year, quarter), scope)
        return float(world.number(figure))

    for company in world.COMPANIES.values():
        for year in (2020, 2022, 2024):
            revenue = number("revenue", year)
            assert revenue == sum(number("segment revenue", year, None, name) for name in company.segments)
            assert revenue == sum(number("region revenue", year, None, name) for name in company.regions)
            for metric in ("revenue", "operating income", "net income", "free cash flow"):
                assert number(metric, year) == sum(number(metric, year, quarter) for quarter in (1, 2, 3, 4))
            heads = [number("headcount in region", year, None, name) for name in company.regions]
            assert number("headcount", year) == sum(heads)
            income = number("operating income", year)
            assert number("operating margin", year) == round(100 * income / revenue, 1)
            assert number("net income", year) < income < number("gross margin", year) / 100 * revenue


def test_last_years_figures_stand_beside_this_years(written: list[Any]) -> None:
    looking_back = [
        report
        for report in written
        if any(fact.subject == report.company and fact.period < report.period for fact in report.facts)
    ]
    assert len(looking_back) > len(written) / 2


def test_every_fact_is_in_its_section_and_in_the_file(written: list[Any], folder: Path) -> None:
    for report in written:
        sections = {section.heading: section.text for section in report.sections}
        file = None if report.format == "pdf" else text_of_file(folder / report.path)
        assert report.facts
        for fact in report.facts:
            assert fact.evidence in sections[fact.section], (report.path, fact)
            assert (fact.page is not None) == (report.format == "pdf")
            assert file is None or fact.evidence in file, (report.path, fact)


def test_reports_are_no_copies_of_each_other_and_each_is_known_in_every_format(
    written: list[Any], folder: Path, drafts: list[Any], tmp_path: Path
) -> None:
    """With room on both sides of the 0.7 that `prepare` takes."""
    sketches = {
        report.path: sketch_of(read_document(folder / report.path, report.path)) for report in written
    }
    assert near_copies(sketches, 0.3) == []
    for draft in drafts[::9]:
        formats = {}
        for form in ("pdf", "docx", "xlsx", "html", "md"):
            copy = replace(draft, path=f"copy.{form}", format=form)
            reports.write_draft(copy, tmp_path)
            formats[form] = sketch_of(read_document(tmp_path / copy.path, copy.path))
            assert near_copies({"as it is": sketches[draft.path], form: formats[form]}, 0.75), (
                draft.path,
                form,
            )


def test_every_fact_of_a_pdf_is_on_its_page(written: list[Any], folder: Path) -> None:
    pdfium = pytest.importorskip("pypdfium2")
    for report in [report for report in written if report.format == "pdf"][::6]:
        document = pdfium.PdfDocument(folder / report.path)
        pages = [flat(page.get_textpage().get_text_bounded()) for page in document]
        assert report.title in pages[0]
        for fact in report.facts:
            assert fact.evidence in pages[fact.page - 1], (report.path, fact)
        document.close()


def test_workbooks_have_numbers_that_are_shown_as_people_write_them(written: list[Any], folder: Path) -> None:
    cells = [
        cell
        for report in written
        if report.format == "xlsx"
        for sheet in openpyxl.load_workbook(folder / report.path).worksheets
        for row in sheet.iter_rows()
        for cell in row
    ]
    numbers = [cell for cell in cells if isinstance(cell.value, int | float)]
    assert len(numbers) > 1000
    assert {"#,##0", "#,##0.0", "#,##0.00"} == {cell.number_format for cell in numbers}
    texts = [cell.value for cell in cells if isinstance(cell.value, str)]
    assert not [text for text in texts if re.fullmatch(r"[\d,]+[.,]\d+", text)]  # but years, in headers


# ---- questions


def test_every_right_answer_can_be_told_from_others(asked: list[dict[str, Any]]) -> None:
    """Amounts, years, and words such as a rating or a name."""
    values = [row["answer"] for row in asked]
    assert all(case_results.says(f"ANSWER: {value} | SOURCE: [1]", value) for value in values)
    assert not any(case_results.says("ANSWER: not reported | SOURCE: none", value) for value in values)
    assert case_results.says("ANSWER: $3689 million", "$3,689 million")
    assert not case_results.says("ANSWER: Sell | SOURCE: [1]", "Buy")


def test_questions_are_many_different_and_evenly_spread(
    written: list[Any], asked: list[dict[str, Any]]
) -> None:
    assert len(asked) >= 2000
    assert len({row["question"] for row in asked}) == len({row["id"] for row in asked}) == len(asked)
    assert asked == questions.questions(written)
    assert asked != questions.questions(written, seed=1)
    per_document = Counter(row["document"] for row in asked)
    assert per_document.keys() == {report.path for report in written}
    # Fewer only where a document has fewer figures, as memos do.
    assert questions.PER_DOCUMENT == max(per_document.values()) <= 2 * min(per_document.values())
    fewer = [path for path, count in per_document.items() if count < questions.PER_DOCUMENT - 1]
    assert all(path.startswith(("memos/", "sectors/")) for path in fewer)
    figures = Counter((row["subject"], row["metric"], row["scope"], row["period"]) for row in asked)
    assert max(figures.values()) == 1


def test_each_question_lists_all_places_that_answer_it(
    written: list[Any], asked: list[dict[str, Any]]
) -> None:
    by_path = {report.path: report for report in written}
    holders = defaultdict(set)
    for report in written:
        for fact in report.facts:
            holders[fact.key].add(report.path)
    for row in asked:
        key = (row["subject"], row["metric"], row["scope"], row["period"])
        assert set(row["documents"]) == holders[key]
        assert row["document"] in row["documents"]
        assert {place["document"] for place in row["places"]} == set(row["documents"])
        for place in row["places"]:
            report = by_path[place["document"]]
            assert row["answer"] in {fact.value for fact in report.facts if fact.key == key}
            (text,) = [one.text for one in report.sections if one.heading == place["section"]]
            assert place["evidence"] in text
        assert any(
            (place["document"], place["section"], place["evidence"])
            == (row["document"], row["section"], row["evidence"])
            for place in row["places"]
        )
    assert sum(len(row["documents"]) > 1 for row in asked) >= 100


def test_questions_name_subject_and_period(asked: list[dict[str, Any]]) -> None:
    for row in asked:
        company, text = world.COMPANIES.get(row["subject"]), row["question"]
        if company:
            assert company.short in text or company.ticker in text
        assert row["period"][-2:] in text or row["subject"] == questions.HOUSE_SUBJECT
        assert "{" not in text
        assert row["scope"] is None or all(
            part.casefold() in text.casefold() for part in row["scope"].split(" / ")
        )


def test_each_metric_is_asked_for_in_many_ways() -> None:
    wording = script("examples/case_study/question_wording.py")
    metrics = script("examples/case_study/metrics.py")
    for key, metric in metrics.METRICS.items():
        general = () if key in wording.WITHOUT_GENERAL else wording.GENERAL
        assert len({*general, *wording.SPECIFIC[key]}) >= 8, key
        assert len(metric.sentences) >= 4 or key == "segment revenue in region"
    assert len(wording.MEMO) >= 8


def test_the_glossary_names_every_company() -> None:
    words = Words()
    groups = read_glossary(CASE_STUDY / "glossary.txt", words.stems)
    for company in world.COMPANIES.values():
        assert [company.name, company.short, company.ticker] in groups
    # It has words and phrases, not whole questions.
    assert max(len(words.stems(phrase)) for group in groups for phrase in group) <= 6


def test_the_right_passage_is_among_the_first_five(
    written: list[Any], asked: list[dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    pairs, some = tmp_path / "questions.jsonl", asked[::6]  # all of them take a minute
    write_lines(pairs, some)
    flags = {"FOLDER": str(folder), "--questions": str(pairs), "--output": str(tmp_path / "data")}
    glossary = f"retrieval.glossary={CASE_STUDY / 'glossary.txt'}"
    record = prepare(load_prepare_config(None, flags, [glossary]))
    assert record["recall"]["questions"] == len(some)
    assert record["recall"]["at"]["5"]["recall"] >= 0.95


def test_what_no_report_says(written: list[Any]) -> None:
    rows = questions.unanswerable(written)
    assert len(rows) == len({row["question"] for row in rows}) == 120
    assert Counter(row["why"] for row in rows) == {
        "no such company": 40,
        "year not covered": 40,
        "figure not reported": 40,
    }
    known = {(fact.subject, fact.metric, fact.period) for report in written for fact in report.facts}
    everything = " ".join(section.text for report in written for section in report.sections).casefold()
    for row in rows:
        assert row["answer"] is row["document"] is row["evidence"] is None
        assert (row["subject"], row["metric"], row["period"]) not in known
        if row["why"] == "no such company":
            assert row["subject"].split()[0].casefold() not in everything
        if row["why"] == "figure not reported":
            assert row["metric"].casefold() not in everything


def test_the_command_writes_questions_as_lines(
    written: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "write_reports", lambda folder, companies: written)
    questions.main([str(tmp_path)])
    for name, least in (("questions", 2000), ("unanswerable", 120)):
        rows = [
            json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert len(rows) >= least
    with pytest.raises(SystemExit, match="give one folder"):
        reports.main([])
    with pytest.raises(SystemExit, match=r"^2$"):
        questions.main([str(tmp_path), "--companies", "0"])


def test_a_smaller_collection_is_about_fewer_companies(drafts: list[Any]) -> None:
    fewer = reports.draft_reports(companies=8)
    assert {draft.company for draft in fewer if draft.company} == set(list(world.COMPANIES)[:8])
    # The first companies' reports, as in the whole collection; and overviews of their sectors alone.
    assert fewer[0] == drafts[0]
    assert sum(draft.path.startswith("sectors/") for draft in fewer) == 4
    assert len(fewer) < len(drafts) / 2


# ---- the executive's requests

GOOD_ANSWERS = {
    "executive-bullets-01": "- Revenue of Ambrelle Textiles in 2023: $1,177 million\n"
    "- Net debt at year end: $362 million\n- Net profit: $61 million\n- Open orders: $1,311 million",
    "numbered-summary-01": "1. Rosenmarsh earned revenue of $2,156 million in 2023.\n"
    "2. Free cash flow was $99 million.\n3. The gross margin came to 40.8 %.",
    "one-sentence-summary-01": "In 2024, Greyfold Luggage had revenue of $1,736 million, an equity ratio of 38.3 % and "
    "open orders of $1,757 million.",
    "plainer-01": "In 2024, Silvanter Furniture kept 16.0 percent of its sales as profit from its daily business. "
    "It spent €28 million on developing new products, and new orders were 1.17 times its sales.",
    "formal-01": "In 2024, Vinterholm Skis achieved sales of €1,786 million and a profit of €170 million, while its "
    "debt amounted to €561 million.",
    "for-a-customer-01": "Dear customer,\nTillerby Boats had revenue of €1,162 million in 2021, and the board wants to "
    "pay you a dividend of €1.72 a share.\nYours sincerely",
    "json-01": '{"company": "Corvaline Toys", "revenue": 457, "profit": 28, "employees": 1131}',
    "table-01": "| Item | Value |\n| --- | --- |\n| Revenue 2022 | $4,186 million |\n"
    "| Operating profit | $450 million |\n| Market share | 9.2% |",
    "email-01": "Subject: Harrowden Pianos in 2021\n\nDear members of the board,\nin 2021, Harrowden Pianos had "
    "revenue of $2,489 million and spent $157 million of it on research. At the end of the year, its "
    "net debt stood at $1,243 million.\nKind regards",
    "title-01": "Ambrelle earns revenue of $1,181 million in 2024",
    "key-risks-01": "- Higher customs duties on imports\n- A new law on packaging\n- The end of the patent on the best "
    "product",
    "questions-01": "1. Why did the revenue of Rosenmarsh develop like this?\n2. How safe is the net profit?\n"
    "3. How will you win a larger share of the market?",
}


def suite(half: str) -> list[GeneralItem]:
    items: list[GeneralItem] = executive.executive_suite(half)
    return items


def test_the_requests_have_two_halves_apart() -> None:
    dev, test = suite("dev"), suite("test")
    assert len(dev) + len(test) >= 64
    assert [item.kind for item in dev] == [item.kind for item in test]
    assert set(executive.KINDS) == {item.kind for item in dev}
    items = [*dev, *test]
    assert len({item.id for item in items}) == len({item.prompt for item in items}) == len(items)
    asked = [{item.prompt.partition("\n")[0] for item in half} for half in (dev, test)]
    assert not asked[0] & asked[1]
    named = [
        {name for name in world.EXECUTIVE_COMPANIES if any(name.split()[0] in item.prompt for item in half)}
        for half in (dev, test)
    ]
    assert not named[0] & named[1]
    assert suite("dev") == dev


def source_of(item: GeneralItem) -> str:
    """The sentences that the request brings."""
    return item.prompt.partition("\n")[2]


def test_the_requests_are_about_companies_of_their_own(written: list[Any]) -> None:
    text = " ".join(section.text for report in written for section in report.sections)
    for name in world.EXECUTIVE_COMPANIES:
        assert name.split()[0] not in text
    for item in (*suite("dev"), *suite("test")):
        assert 10 <= len(source_of(item).split()) <= 120
        assert any(name.split()[0] in item.prompt for name in world.EXECUTIVE_COMPANIES)


def test_the_house_style_passes_no_check() -> None:
    for item in (*suite("dev"), *suite("test")):
        amount = re.search(r"[$€][\d.,]*\d million", item.prompt)
        value = amount[0] if amount else "16 %"
        for answer in ("ANSWER: $1,536 million | SOURCE: [2]", f"ANSWER: {value} | SOURCE: [1]", "", "No."):
            assert score_general(item, answer) == 0, (item.id, answer)


@pytest.mark.parametrize("name", GOOD_ANSWERS)
def test_a_good_answer_passes_every_check(name: str) -> None:
    (item,) = [item for item in suite("dev") if item.id == f"dev-case-{name}"]
    failed = [check for check in item.checks if not check.passes(GOOD_ANSWERS[name])]
    assert failed == []


@pytest.mark.parametrize("name", [name for name in GOOD_ANSWERS if name != "key-risks-01"])
def test_a_made_up_number_costs_a_check(name: str) -> None:
    (item,) = [item for item in suite("dev") if item.id == f"dev-case-{name}"]
    made_up = (
        GOOD_ANSWERS[name].replace("|\n", "| 77.7 |\n", 1)
        if name == "table-01"
        else GOOD_ANSWERS[name] + " 77.7"
    )
    assert score_general(item, made_up) < 1


def test_a_copy_of_the_source_is_no_rewriting() -> None:
    for item in suite("dev"):
        if item.kind in ("plainer", "formal", "table", "json", "executive bullets"):
            assert score_general(item, source_of(item)) < 1, item.id


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("| A | B |\n|---|---|\n| x | 1 |\n| y | 2 |", True),
        ("Here it is:\n\nA | B\n--- | :---:\nx | 1\ny | 2\n\nThat is all.", True),
        ("| A | B |\n|---|---|\n| x | 1 |", False),
        ("| A | B |\n| x | 1 |\n| y | 2 |", False),
        ("ANSWER: x | SOURCE: [2]", False),
        ("", False),
    ],
)
def test_markdown_tables_are_recognised(answer: str, passes: bool) -> None:
    assert executive.MarkdownTable(2).passes(answer) is passes


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("1,536 and 18.4", True),
        ("$1536 million", True),
        ("1. 1,536\n2. 18.4", True),
        ("1,536 after 1,400", False),
        ("18.4 of 5,020 and 1,536", True),
        ("nothing", False),
    ],
)
def test_half_of_the_numbers(answer: str, passes: bool) -> None:
    check = executive.HalfTheNumbers(("1,536", "18.4"), "revenue 1,536, margin 18.4, staff 5,020")
    assert check.passes(answer) is passes
