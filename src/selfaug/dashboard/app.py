"""The dashboard's pages: what each address shows."""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

from jinja2 import ChoiceLoader, Environment, PackageLoader
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from selfaug.core.printable import printable
from selfaug.dashboard.access import Access
from selfaug.dashboard.explain import TOPICS, distributions, methods_of
from selfaug.dashboard.library import DAMAGED, Entry, Library, outer_command, progress_of
from selfaug.dashboard.monitoring import monitor_view
from selfaug.dashboard.roi import roi_view
from selfaug.dashboard.samples import CHANGES, KeptSamples, differing_words
from selfaug.dashboard.side_by_side import chosen_charts, chosen_table
from selfaug.dashboard.words import WORDS, word_of
from selfaug.errors import DataError, SelfAugError
from selfaug.registry import DEFAULT_REGISTRY
from selfaug.report.charts import COLORS, lines_svg
from selfaug.report.document import Answers, Chart, Table
from selfaug.report.kept_answers import answer_files
from selfaug.report.open_report import explained, report_on, telling_request
from selfaug.report.page import environment, text_limit
from selfaug.report.run_report import run_curves
from selfaug.rundir import RunDir
from selfaug.wording.numbers import duration
from selfaug.wording.roi_csv import roi_csv

__all__ = ["dashboard_app"]

_RUNS_A_PAGE = 50
_SAMPLES_A_PAGE = 20
_MOST_CHOSEN = 8
_KEPT_REPORTS = 24
_KEPT_CURVES = 8
_LONGEST_SEARCH = 200
_TEXT_LIMIT = 6_000

_KINDS = {
    "train": "run", "assessment": "assessment", "comparison": "comparison", "balance": "balance", "demo": "demo",
    DAMAGED: "damaged",
}  # fmt: skip

# Names of files carry their version, so a browser may keep them.
_HTMX = "htmx-4.0.1.min.js"
_STATIC = {_HTMX: "text/javascript", "icon.svg": "image/svg+xml"}


def dashboard_app(library: Library, *, token: str | None, port: int, loopback: bool = True) -> ASGIApp:
    """The application.

    Args:
        library: what is shown.
        token: see `Access`.
        port: see `Access`.
        loopback: see `Access`.
    """
    pages = _Pages(library)
    pages.warm_up()
    routes = [
        Route("/", pages.shown(pages.overview)),
        Route("/entries", pages.shown(pages.entries, part="entries")),
        Route("/run/", pages.shown(pages.run)),
        Route("/run/{path:path}", pages.shown(pages.run)),
        Route("/live/", pages.shown(pages.live, part="live")),
        Route("/live/{path:path}", pages.shown(pages.live, part="live")),
        Route("/samples/", pages.shown(pages.samples)),
        Route("/samples/{path:path}", pages.shown(pages.samples)),
        Route("/monitor", pages.shown(pages.monitors)),
        Route("/monitor/", pages.shown(pages.monitor)),
        Route("/monitor/{path:path}", pages.shown(pages.monitor)),
        Route("/compare", pages.shown(pages.compare)),
        Route("/roi", pages.shown(pages.roi)),
        Route("/roi/result", pages.shown(pages.roi_result, part="result")),
        Route("/roi.csv", pages.roi_sheet),
        Route("/explain", pages.shown(pages.explain)),
        Route("/explain/picture", pages.shown(pages.picture, part="picture")),
        Route("/words", pages.shown(pages.words)),
        Route("/style.css", pages.style),
        Route("/static/{name}", _static),
        Route("/{path:path}", pages.shown(pages.nothing)),
    ]
    application = Starlette(
        routes=routes,
        # Of addresses that no route takes, such as those with an end of line.
        exception_handlers={404: lambda request, _: pages.shown(pages.nothing)(request)},
    )
    return Access(application, token=token, port=port, loopback=loopback)


_Made = TypeVar("_Made")


class _Kept(Generic[_Made]):
    """What was made of the entries that were looked at last.

    Args:
        most: how many are kept.
        lock: held while one is made.
    """

    def __init__(self, most: int, lock: threading.Lock) -> None:
        self._most, self._lock = most, lock
        self._found: OrderedDict[str, tuple[Entry, _Made]] = OrderedDict()

    def of(self, entry: Entry, make: Callable[[], _Made]) -> _Made:
        """What was made of an entry, or what is made of it now: the library makes another of a folder that changed."""
        with self._lock:
            found = self._found.get(entry.path)
            if found is None or found[0] is not entry:
                self._found[entry.path] = found = entry, make()
                while len(self._found) > self._most:
                    self._found.popitem(last=False)
            self._found.move_to_end(entry.path)
            return found[1]


@dataclass(frozen=True)
class _NotThereError(Exception):
    """A page that there is not."""

    what: str


class _Pages:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._samples = KeptSamples()
        # Pictures are drawn by one engine.
        self._lock = threading.Lock()
        self._reports: _Kept[str] = _Kept(_KEPT_REPORTS, self._lock)
        self._curves: _Kept[list[Chart]] = _Kept(_KEPT_CURVES, self._lock)
        # The first page draws nothing, and waits for nothing that is drawn.
        self._requests: _Kept[Answers | None] = _Kept(1, threading.Lock())

    def shown(self, page: Callable[[Request], str], part: str = "") -> Callable[[Request], Response]:
        """A page as an answer; an error as a page that says what is wrong.

        Args:
            page: what it shows.
            part: id of the place in an open page that the answer takes, so that a problem takes it, too.
        """

        def refused(request: Request, problem: str, status: int) -> Response:
            template = "problem_part" if part and "hx-request" in request.headers else "problem"
            return HTMLResponse(self._page(template, request, problem=problem, part=part), status)

        def answer(request: Request) -> Response:
            try:
                return HTMLResponse(page(request))
            except _NotThereError as error:
                return refused(request, error.what, 404)
            except SelfAugError as error:
                return refused(request, str(error), 422)
            except FileNotFoundError as error:
                return refused(request, f"{error.filename} was there a moment ago. Load the page again.", 404)
            except Exception:
                # It can hold what a model wrote.
                sys.stderr.write(printable(traceback.format_exc()))
                problem = "This page could not be made; the terminal of `selfaug dashboard` shows why."
                return refused(request, problem, 500)

        return answer

    def warm_up(self) -> None:
        """Make ready what takes a second the first time, before the first page: templates and the engine that draws."""
        for name in _templates().list_templates(extensions=["j2"]):
            _templates().get_template(name)
        with self._lock:
            lines_svg([{"step": 1, "value": 1.0}, {"step": 2, "value": 2.0}], "")

    # ---- pages

    def overview(self, request: Request) -> str:
        """What there is, newest first, with the phases of the project."""
        return self._page(
            "overview", request, **self._listed(request), phases=self._phases(), newest=self._newest()
        )

    def entries(self, request: Request) -> str:
        """The list of the overview alone, for when it is looked at again."""
        return self._page("entries", request, **self._listed(request))

    def run(self, request: Request) -> str:
        """The report on one folder."""
        entry = self._entry(request)
        progress = progress_of(entry)
        if progress is not None:
            return self._page("live", request, entry=entry, **self._live(entry))
        if entry.summary is None:
            raise _NotThereError(entry.problem)
        parts = [one for one in self._library.entries() if one.inside == entry.path and one is not entry]
        return self._page(
            "run",
            request,
            entry=entry,
            name=entry.summary.name,
            body=self._report(entry),
            has_samples=bool(answer_files(entry.folder, entry.kind)),
            parts=sorted(parts, key=lambda one: one.path)[:_RUNS_A_PAGE],
        )

    def live(self, request: Request) -> str:
        """What a running training has come to; when it is finished, the browser asks for the whole page."""
        entry = self._entry(request)
        if progress_of(entry) is None:
            return self._page("finished", request, entry=entry)
        return self._page("live_part", request, entry=entry, **self._live(entry))

    def samples(self, request: Request) -> str:
        """Answers side by side, failures first."""
        entry = self._entry(request)
        found = {one.suite: one for one in answer_files(entry.folder, entry.kind)}
        if not found:
            raise _NotThereError(
                f"{entry.path or 'this folder'} keeps no answers: they are written by an evaluation."
            )
        suite = request.query_params.get("suite", "")
        chosen = found.get(suite) or next(iter(found.values()))
        change = request.query_params.get("change", "")
        change = change if change in CHANGES else ""
        search = request.query_params.get("search", "")[:_LONGEST_SEARCH]
        samples = self._samples.of(chosen)
        ids = samples.select(change, search)
        page, pages = _numbered(request, len(ids), _SAMPLES_A_PAGE)
        shown = samples.shown(ids[_SAMPLES_A_PAGE * (page - 1) : _SAMPLES_A_PAGE * page])
        compared = [
            (one, differing_words(one.answers[0], one.answers[-1]), one.answers[1:-1]) for one in shown
        ]
        return self._page(
            "samples",
            request,
            entry=entry,
            suites=list(found),
            suite=chosen.suite,
            labels=list(chosen.labels.items()),
            change=change,
            search=search,
            counts=samples.counts(),
            compared=compared,
            total=len(ids),
            page=page,
            pages=pages,
        )

    def monitors(self, request: Request) -> str:
        """Which runs are watched."""
        watched = [entry for entry in self._library.entries() if entry.is_watched]
        return self._page("monitors", request, watched=watched)

    def monitor(self, request: Request) -> str:
        """Live traffic of one run."""
        entry = self._entry(request)
        with self._lock, explained(entry.folder):
            view = monitor_view(entry.folder, registry=self._library.root / Path(DEFAULT_REGISTRY).name)
            return self._page("monitor", request, entry=entry, **view)

    def compare(self, request: Request) -> str:
        """Chosen runs beside each other."""
        wanted = list(dict.fromkeys(request.query_params.getlist("run")))
        entries = [entry for path in wanted if (entry := self._library.entry(path)) is not None]
        read = [entry for entry in entries if entry.summary is not None]
        with self._lock:
            charts, problems = chosen_charts(read[:_MOST_CHOSEN])
        return self._page(
            "compare",
            request,
            chosen=read[:_MOST_CHOSEN],
            left_out=len(wanted) - len(read[:_MOST_CHOSEN]),
            table=chosen_table(read[:_MOST_CHOSEN]),
            charts=charts,
            problems=problems,
        )

    def roi(self, request: Request) -> str:
        """The business case with its sliders."""
        return self._page("roi", request, alone=False, **self._roi(request))

    def roi_result(self, request: Request) -> str:
        """The business case for what the sliders say."""
        return self._page("roi_result", request, alone=True, **self._roi(request))

    def roi_sheet(self, request: Request) -> Response:
        """The business case as a spreadsheet with formulae."""
        view = self._roi(request)
        if view["case"] is None:
            return PlainTextResponse(view["problem"], 422)
        headers = {"content-disposition": 'attachment; filename="business-case.csv"'}
        return PlainTextResponse(roi_csv(view["case"]), media_type="text/csv", headers=headers)

    def explain(self, request: Request) -> str:
        """Topics for newcomers."""
        comparison, methods = _methods(self._comparisons())
        return self._page(
            "explain",
            request,
            topics=TOPICS,
            phases=self._phases(),
            methods=methods,
            comparison=comparison,
            **distributions(0.35),
        )

    def picture(self, request: Request) -> str:
        """Two distributions, one of which has been moved."""
        return self._page("picture", request, **distributions(_number(request, "moved", 0.35)))

    def words(self, request: Request) -> str:
        """What the terms mean."""
        return self._page("words", request)

    def nothing(self, request: Request) -> str:
        """There is no such page."""
        raise _NotThereError(f"There is no page {request.scope['path']}.")

    def style(self, request: Request) -> Response:
        """The style sheet of all pages."""
        sheet = _templates().get_template("dashboard.css.j2").render(colors=COLORS)
        return PlainTextResponse(sheet, media_type="text/css", headers={"cache-control": "max-age=60"})

    # ---- what several pages have

    def _entry(self, request: Request) -> Entry:
        path = request.path_params.get("path", "").strip("/")
        entry = self._library.entry(path)
        if entry is None:
            raise _NotThereError(f"There is no run {path} in {self._library.root}.")
        return entry

    def _comparisons(self) -> list[Entry]:
        """Those that can be read, the newest first."""
        return [
            one for one in self._library.entries() if one.kind == "comparison" and one.summary is not None
        ]

    def _report(self, entry: Entry) -> str:
        def made() -> str:
            report = report_on(entry.folder)
            template = _templates().get_template("report.html.j2")
            return template.render(report=report, text_limit=text_limit(report), words=WORDS, word_of=word_of)

        return self._reports.of(entry, made)

    def _live(self, entry: Entry) -> dict[str, Any]:
        progress = progress_of(entry)
        assert progress is not None
        left = None if progress.seconds_left is None else duration(progress.seconds_left)
        with explained(entry.folder):
            charts = self._curves.of(entry, lambda: run_curves(RunDir(entry.folder)))
        outer = None if progress.running else outer_command(entry)
        resume = printable(RunDir(entry.folder).resume_command)
        return {"progress": progress, "left": left, "charts": charts, "outer": outer, "resume": resume}

    def _listed(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        kind = query.get("kind", "")
        kind = kind if kind in _KINDS else ""
        search = query.get("search", "")[:_LONGEST_SEARCH]
        parts = query.get("parts") == "1"
        entries = self._library.entries()
        found = [
            entry
            for entry in entries
            if (not kind or entry.kind == kind)
            and (parts or entry.inside is None)
            and (not search or search.lower() in entry.path.lower())
        ]
        page, pages = _numbered(request, len(found), _RUNS_A_PAGE)
        rows = found[_RUNS_A_PAGE * (page - 1) : _RUNS_A_PAGE * page]
        return {
            "rows": [(entry, progress_of(entry)) for entry in rows],
            "kinds": _KINDS,
            "kind": kind,
            "search": search,
            "parts": parts,
            "total": len(found),
            "hidden": sum(entry.inside is not None for entry in entries),
            "page": page,
            "pages": pages,
            "root": str(self._library.root),
        }

    def _newest(self) -> tuple[Entry, Answers | None] | None:
        """The result that stands first: the last comparison, demo, balance or evaluated run that is finished."""
        newest = next(
            (
                one
                for one in self._library.entries()
                if one.complete
                and one.summary is not None
                and one.inside is None
                and (one.kind in ("comparison", "demo", "balance") or one.is_evaluated)
            ),
            None,
        )
        if newest is None:
            return None
        try:
            return newest, self._requests.of(newest, lambda: telling_request(newest.folder))
        except (SelfAugError, OSError):  # it has changed since it was listed
            return newest, None

    def _phases(self) -> list[tuple[str, str, str, int, str]]:
        """The four phases: name, command, question, how many there are, and where they are."""
        entries = self._library.entries()
        watched = sum(one.is_watched for one in entries)  # parts of others, too, as their own page lists them

        def count(test: Callable[[Entry], bool]) -> int:
            return sum(map(test, (one for one in entries if one.inside is None)))

        return [
            (
                "1 Baseline assessment", "selfaug assess",
                "How good is the base model, and how much would plain fine-tuning make it forget?",
                count(lambda one: one.kind == "assessment"), "/?kind=assessment",
            ),
            (
                "2 Integration", "selfaug train", "How do I train with the alignment term?",
                count(lambda one: one.kind == "train"), "/?kind=train",
            ),
            (
                "3 Evaluate and balance", "selfaug evaluate, compare, balance",
                "Which setting is best at the job while the rest is kept?",
                count(lambda one: one.kind in ("comparison", "balance", "demo") or one.is_evaluated), "/",
            ),
            (
                "4 Deploy and monitor", "selfaug serve, monitor, realign",
                "Is live traffic still like that of training?", watched, "/monitor",
            ),
        ]  # fmt: skip

    def _roi(self, request: Request) -> dict[str, Any]:
        # The directory itself has no path, and in the form nothing stands for no comparison.
        comparisons = {entry.path or ".": entry.folder for entry in self._comparisons()}
        with self._lock:
            return roi_view(request.query_params, comparisons)

    def _page(self, template: str, request: Request, **values: Any) -> str:
        return (
            _templates()
            .get_template(f"{template}.html.j2")
            .render(
                text_limit=_TEXT_LIMIT,
                here=request.scope["path"],
                query=request.scope["query_string"].decode("latin-1"),
                address=_address,
                htmx=_HTMX,
                words=WORDS,
                word_of=word_of,
                **values,
            )
        )


def _methods(comparisons: Sequence[Entry]) -> tuple[Entry, Table] | tuple[None, None]:
    """The first whose table of methods can be made, and the table."""
    for entry in comparisons:
        with contextlib.suppress(DataError), explained(entry.folder):
            return entry, methods_of(entry)
    return None, None


@cache
def _templates() -> Environment:
    loader = ChoiceLoader(
        [PackageLoader("selfaug.dashboard", "templates"), PackageLoader("selfaug", "report")]
    )
    made = environment().overlay(loader=loader)
    made.filters = {**made.filters, "when": _when}
    return made


def _when(seconds: float) -> str:
    from datetime import datetime

    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):  # a file can be of any time
        return "–"


def _address(request_path: str, query: Mapping[str, Any]) -> str:
    """An address with a query; what is empty is left out."""
    from urllib.parse import quote, urlencode

    kept = urlencode(
        {name: value for name, value in query.items() if value not in ("", None, False)}, doseq=True
    )
    path = quote(request_path)
    return f"{path}?{kept}" if kept else path


def _numbered(request: Request, found: int, a_page: int) -> tuple[int, int]:
    """The page that is asked for, and how many there are."""
    pages = max(1, -(-found // a_page))
    return int(min(max(1, _number(request, "page", 1)), pages)), pages


def _number(request: Request, name: str, default: float) -> float:
    try:
        value = float(request.query_params.get(name, default))
    except ValueError:
        return default
    return value if abs(value) < 1e9 else default


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        return PlainTextResponse("There is no such file.\n", 404)
    content = _file(name)
    return Response(content, media_type=_STATIC[name], headers={"cache-control": "max-age=86400"})


@cache
def _file(name: str) -> bytes:
    return Path(str(files("selfaug.dashboard"))).joinpath("static", name).read_bytes()
