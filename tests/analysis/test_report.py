"""The page: self-contained, honest about gaps, safe against odd names, and the same on every
run."""

import math
import random
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from planted import (
    baselines,
    demo_spec,
    header_of,
    plant,
    planted_row,
    quick_ledger,
    write_trial,
)
from surfaces import planted, valley

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import IN_THE_DARK, INK, method_look
from ray_unlearn.analysis.read.study_results import StudyResults, load
from ray_unlearn.analysis.report.checklist_section import checklist_section
from ray_unlearn.analysis.report.own_columns_section import own_columns_section
from ray_unlearn.analysis.report.page import Paragraph, Picture, Table
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.analysis.report.write import write_report
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.evaluation_spec import GenerateSpec, WatchedSet
from ray_unlearn.spec.guideline_file import load_guidelines
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.store.event import BaselineMeasured
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.table import result_table, write_table

VOID = {"meta", "link", "br", "wbr", "img", "input", "hr", "path", "use", "image", "rect"}


class PageReader(HTMLParser):
    """Collects ids, links and text; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.ids += [known["id"] or ""] if "id" in known else []
        self.anchors += [known["href"] or ""] if tag == "a" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def report(planted_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert write_report([planted_study], out) == out / "report.html"
    return out


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a report's time; tests of its words do without."""
    monkeypatch.setattr(
        "ray_unlearn.analysis.report.report_files.drawn", lambda _: ("<svg></svg>", b"", 100)
    )


@pytest.fixture
def small_study(tmp_path: Path) -> Path:
    """Two methods, one trial each."""
    spec = demo_spec(trials_per_method=1).model_copy(
        update={"methods": ("gradient_ascent", "ascent_kl_general")}
    )
    return plant(tmp_path / "small", trials=1, seed=9, spec=spec)


def html_of(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def read(out: Path) -> PageReader:
    return PageReader(html_of(out))


def test_the_checklist_says_what_was_not_measured(planted_study: Path) -> None:
    (study,) = load([planted_study]).studies

    def answers(*studies: StudyResults) -> dict[str, str]:
        (table,) = (b for b in checklist_section(studies).blocks if isinstance(b, Table))
        return {question: measured for question, measured, _ in table.lines}

    found = answers(study)
    assert found["forgetting, against exact retraining"] == "yes"
    assert found["membership inference"] == "yes"
    assert found["relearning, and rounding of the weights"] == "no"
    bare = replace(
        study,
        baselines=study.baselines.drop(index="exact_retrain"),
        rows=study.rows.assign(mia_loss_auc_reporting=float("nan")),
    )
    assert answers(bare)["forgetting, against exact retraining"] == "no"
    assert answers(bare)["membership inference"] == "no"
    assert answers(study, bare)["membership inference"] == "partly"
    scope = checklist_section([study, replace(study, domain="another")]).blocks[1]
    assert isinstance(scope, Table)
    assert scope.lines[-1][2].startswith("2 domains, 2 trained models, ")


def with_watched_sets(study: StudyResults) -> StudyResults:
    """The study as if it had watched a set of each role, and generated answers."""
    assert study.spec is not None
    sets = {
        "hard": WatchedSet(path="/nowhere", role="in_scope"),
        "close": WatchedSet(path="/nowhere", role="near"),
        "sums": WatchedSet(path="/nowhere", role="far"),
    }
    generate = (GenerateSpec(sets=("hard", "forget")),)
    evaluation = study.spec.evaluation.model_copy(update={"sets": sets, "generate": generate})
    spec = study.spec.model_copy(update={"evaluation": evaluation})
    own = {"hard_ppl": 7.25, "sums_accuracy": 0.5, "forget_rouge_l": 0.125}
    rows = study.rows.assign(**own)
    return replace(study, spec=spec, rows=rows, baselines=study.baselines.assign(hard_ppl=3.5))


def test_watched_sets_are_a_table_of_the_page_and_answer_the_checklist(
    planted_study: Path,
) -> None:
    (study,) = load([planted_study]).studies
    assert own_columns_section(study, "demo") == ()
    watched = with_watched_sets(study)
    (section,) = own_columns_section(watched, "demo")
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [line[0] for line in table.lines] == [
        "`hard_ppl`",
        "`sums_accuracy`",
        "`forget_rouge_l`",
    ]
    assert [heading.label for heading in table.headings][2:4] == [
        "vanilla model",
        "exactly retrained model",
    ]
    assert table.lines[0][2:5] == ("3.50", "3.50", "7.25")
    assert table.lines[1][1] == "\u2191"
    assert table.lines[2][1:3] == ("", "\u2013")
    page = checklist_section([watched]).blocks[1]
    assert isinstance(page, Table)
    found = {line[0]: line[1:] for line in page.lines}
    in_scope = next(value for name, value in found.items() if name.startswith("hard in-scope"))
    assert in_scope == ("yes", "loss on `hard`, in each row")
    assert found["utility far from it"][0] == "yes"
    assert "`close`" in found["utility near the forget set"][1]
    assert found["what the model says when it is asked"][0] == "yes"
    both = checklist_section([watched, study]).blocks[1]
    assert isinstance(both, Table)
    assert {line[0]: line[1] for line in both.lines}["utility far from it"] == "partly"


def test_page_is_whole_and_in_order(report: Path) -> None:
    page = read(report)
    assert len(page.ids) == len(set(page.ids))
    assert [link for link in page.anchors if link[1:] not in page.ids] == []
    places = [
        page.ids.index(name)
        for name in (
            "what-to-do",
            "open",
            "health",
            "methods",
            "compared",
            "interactions",
            "transfer",
            "variance",
            "difference",
            "studies",
            "demo-baselines",
            "checklist",
            "reproduce",
            "limits",
        )
    ]
    assert places == sorted(places)
    assert "came closest" in page.text
    assert "No guideline is claimed." in page.text
    order = ("What to do Run ", "No guideline is claimed.", "came closest")
    where = [page.text.index(words) for words in order]
    assert where == sorted(where)
    assert where[0] < 600, "what to do comes first"
    tables = re.findall(r'<div class="scroll( stacked)?" .*?</table>', html_of(report), re.DOTALL)
    assert len(tables) == html_of(report).count("<table>"), "each has a box of its own"
    assert " stacked" in tables, "what to run is read line by line on a phone"
    assert "they differ by more than 10 %" in page.text
    assert "ray-unlearn report demo-study -o report" in page.text
    assert "of 42 planned trials" not in page.text.replace("42 of 42 planned trials", "")


def test_page_needs_no_network_and_no_script(report: Path) -> None:
    html = (report / "report.html").read_text(encoding="utf-8")
    outside = re.findall(r"https?://[^\s\"'<]+", re.sub(r'xmlns(?::\w+)?="[^"]+"', "", html))
    assert outside == []
    assert "<script" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html


def test_figures_follow_the_readers_colours(report: Path) -> None:
    """Ink on a dark ground would be a black figure: every colour that changes is a variable."""
    html = (report / "report.html").read_text(encoding="utf-8")
    figures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(figures) >= 5
    for figure in figures:
        named = set(re.findall(r"(?:fill|stroke)[:=]\s*\"?(#[0-9a-f]{6})\b", figure))
        assert named & set(IN_THE_DARK) == set()
        assert f"var(--c{INK[1:]})" in figure
    for colour, dark in IN_THE_DARK.items():
        assert html.count(f"--c{colour[1:]}:{colour};") == 1
        assert html.count(f"--c{colour[1:]}:{dark};") == 1
    assert "(prefers-color-scheme: dark)" in html


def luminance(colour: str) -> float:
    """Relative luminance of sRGB (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_seen_on_a_dark_ground(method: str) -> None:
    colour = method_look(method, tuple(METHODS)).colour
    on, ground = IN_THE_DARK.get(colour, colour), IN_THE_DARK["#ffffff"]
    contrast = (luminance(on) + 0.05) / (luminance(ground) + 0.05)
    assert contrast >= 4.5


def test_figures_come_as_svg_png_and_numbers(report: Path) -> None:
    drawings = {path.stem for path in (report / "figures").glob("*.svg")}
    assert len([stem for stem in drawings if stem.startswith("demo-")]) == 5
    assert drawings == {path.stem for path in (report / "figures").glob("*.png")}
    tables = {"demo-verdict", "demo-baselines", "trials", "hypervolume"}
    assert drawings == {path.stem for path in (report / "data").glob("*.csv")} - tables
    html, markdown = (
        (report / name).read_text(encoding="utf-8") for name in ("report.html", "report.md")
    )
    for stem in drawings:
        assert f"data/{stem}.csv" in html
        assert f"figures/{stem}.png" in markdown


def test_verdict_file_holds_the_numbers_of_the_page(report: Path) -> None:
    table = pd.read_csv(report / "data" / "demo-verdict.csv")
    page = read(report).text
    for _, line in table.iterrows():
        assert f"{line['forget_ppl']:.1f}" in page
        assert str(line["number"]) in page


def test_same_results_same_bytes(small_study: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_report([small_study], first)
    write_report([small_study], second)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    figures = sum(path.parent.name == "figures" for path in files)
    assert figures >= 10
    assert (
        len(files) == 3 + figures + figures // 2 + 3
    )  # pages and JSON; SVG and PNG; their numbers; verdict, baselines, trials
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [
        name for name in files if (first / name).read_bytes() != (second / name).read_bytes()
    ] == []


def test_no_path_of_the_machine_in_the_report(planted_study: Path, report: Path) -> None:
    for name in ("report.html", "report.md", "guidelines.json"):
        assert str(planted_study.parent) not in (report / name).read_text(encoding="utf-8")


def test_no_finished_trial_is_a_valid_page_that_says_so(tmp_path: Path) -> None:
    spec = demo_spec()
    with quick_ledger(tmp_path / "s", spec) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=baselines()["vanilla"]))
        write_trial(ledger, spec, "gradient_ascent", {"learning_rate": 3e-4}, {}, status="running")
        write_trial(ledger, spec, "random_labels", {"learning_rate": 9e-4}, {}, status="diverged")
    write_report([tmp_path / "s"], tmp_path / "out")
    text = read(tmp_path / "out").text
    assert "There is no verdict: no trial has a score yet." in text
    assert "1 diverged, 1 without an outcome" in text
    assert "There is nothing to draw" in text


@pytest.mark.usefixtures("no_figures")
def test_no_exact_baseline_is_said(tmp_path: Path) -> None:
    spec = demo_spec().model_copy(update={"methods": ("gradient_ascent",)})
    write_report([plant(tmp_path / "s", trials=3, exact=False, spec=spec)], tmp_path / "out")
    page = read(tmp_path / "out").text
    assert "No exactly retrained model was measured" in page
    assert "distance to target" in page
    assert "exactly retrained model 87" not in page


@pytest.mark.usefixtures("no_figures")
def test_table_without_baselines_withholds_the_target(planted_study: Path, tmp_path: Path) -> None:
    record = read_ledger(planted_study / "ledger")
    write_table(result_table(record), tmp_path / "rows.parquet")
    write_report([tmp_path / "rows.parquet"], tmp_path / "out")
    page = read(tmp_path / "out").text
    assert "The baselines are not known" in page
    assert "has the lowest score" in page
    assert "0 of 7 methods have a feasible" not in page


def failed_study(folder: Path, reasons: dict[str, list[tuple[str, str]]]) -> Path:
    """A study whose trials end with these statuses and reasons, by method."""
    spec = demo_spec().model_copy(update={"methods": tuple(reasons)})
    with quick_ledger(folder, spec) as ledger:
        for method, ends in reasons.items():
            for index, (status, reason) in enumerate(ends):
                rate = 2e-4 + 1e-5 * index
                rows = {6: planted_row(method, rate, 6, 1.0, random.Random(0))}
                write_trial(
                    ledger,
                    spec,
                    method,
                    {"learning_rate": rate},
                    rows if status == "complete" else {},
                    status=status,
                    reason=reason,
                )
    return folder


@pytest.mark.usefixtures("no_figures")
def test_a_study_without_any_result_leads_with_the_commonest_reasons(tmp_path: Path) -> None:
    ends = [("failed", "OSError: no space left on device")] * 2
    ends += [("diverged", f"non-finite loss at update {update}") for update in (14, 3, 9)]
    study = failed_study(tmp_path / "s", {"gradient_ascent": [*ends, ("out_of_memory", "")]})
    write_report([study], tmp_path / "out")
    text = read(tmp_path / "out").text
    lead = (
        "None of the 6 trials of this study has a result. The commonest reasons: non-finite loss "
        "at update 14 (3); OSError: no space left on device (2); out of memory (1)."
    )
    assert lead in text
    assert text.index(lead) < text.index("No guideline is claimed.")


@pytest.mark.usefixtures("no_figures")
def test_a_method_without_any_result_is_named_first(tmp_path: Path) -> None:
    ends = {
        "gradient_ascent": [("failed", "ValueError: bad")],
        "random_labels": [("complete", ""), ("failed", "x")],
    }
    write_report([failed_study(tmp_path / "s", ends)], tmp_path / "out")
    text = read(tmp_path / "out").text
    lead = "The only trial of gradient_ascent has no result. The commonest reasons: ValueError: bad"
    assert lead in text
    assert text.index(lead) < text.index("has the lowest score")
    assert "of random_labels has" not in text


def test_finite_scores_of_any_size_make_a_report(small_study: Path, tmp_path: Path) -> None:
    """They came from a diverging model, and ended the report with a traceback."""
    frame = result_table(read_ledger(small_study / "ledger")).to_pandas()
    for name in ("score_selection", "score_reporting", "utility_loss_reporting"):
        frame.loc[frame.index[::3], name] = 1e304
        frame.loc[frame.index[1::3], name] = 1e-304
    frame.to_csv(tmp_path / "rows.csv", index=False)
    write_report([tmp_path / "rows.csv"], tmp_path / "out")
    page = read(tmp_path / "out")
    assert "cannot be drawn" not in page.text
    assert "cannot be made" not in page.text
    assert len(list((tmp_path / "out" / "figures").glob("*.png"))) >= 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # sums of such numbers are not finite
@pytest.mark.parametrize(
    "scores", [(1e304,), (1e304, -1e304, math.inf), (1e304, -1e304), (1.7e308, 0.3, 9e307)]
)
@pytest.mark.usefixtures("no_figures")
def test_statistics_of_scores_of_any_size_make_a_report(
    tmp_path: Path, scores: tuple[float, ...]
) -> None:
    table = planted(dict.fromkeys(("a", "b"), valley()), trials=12, groups=("x", "y")).trials
    frame = table[["trial", "method", "domain", "seed", "learning_rate", "score"]]
    huge = frame.index[:: 1 if len(scores) == 2 else 5]
    frame.loc[huge, "score"] = np.resize(scores, len(huge))
    frame.to_csv(tmp_path / "table.csv", index=False)
    write_report([tmp_path / "table.csv"], tmp_path / "out", score="score", sampler="random")
    assert "Methods compared" in read(tmp_path / "out").text
    assert load_guidelines(tmp_path / "out" / "guidelines.json").best_trials


def test_a_figure_that_cannot_be_made_or_drawn_is_a_sentence(tmp_path: Path) -> None:
    def broken() -> Figure:
        raise OverflowError("`cannot` convert\nfloat infinity to integer")

    def nothing() -> Drawing:
        raise ZeroDivisionError("division by zero")

    data = pd.DataFrame({"x": [1.0]})
    out = ReportFolder(tmp_path)
    found = out.pictures(
        {
            "Drawn": lambda: Drawing("heatmap", "Title", "", data, lambda: Figure(figsize=(1, 1))),
            "Nothing to show": lambda: None,
            "Broken": lambda: Drawing("tradeoff", "Forgetting", "", data, broken),
            "Nothing": nothing,
        },
        "demo-",
    )
    assert [type(block) for block in found] == [Picture, Paragraph, Paragraph]
    assert [block.text for block in found if isinstance(block, Paragraph)] == [
        "Forgetting: this figure cannot be drawn (OverflowError: 'cannot' convert float infinity "
        "to integer). Its numbers are in `data/demo-tradeoff.csv`.",
        "Nothing: this figure cannot be made (ZeroDivisionError: division by zero).",
    ]
    assert (tmp_path / "data" / "demo-tradeoff.csv").read_text() == "x\n1.0\n"
    assert not (tmp_path / "figures" / "demo-tradeoff.svg").exists()


def test_odd_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    spec = demo_spec(trials_per_method=1).model_copy(update={"methods": ("gradient_ascent",)})
    spec = spec.model_copy(
        update={"model": spec.model.model_copy(update={"source": "demo:<b>bold</b>"})}
    )
    header = replace(header_of(spec), domain="<script>alert('$x^')</script> | `a` *b*")
    with quick_ledger(tmp_path / "s", spec, header=header) as ledger:
        ledger.append(BaselineMeasured(name="<i>vanilla", metrics=baselines()["vanilla"]))
        write_trial(
            ledger,
            spec,
            "gradient_ascent",
            {"learning_rate": 3e-4},
            {},
            status="failed",
            reason="<u>why</u>",
        )
    write_report([tmp_path / "s"], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;" in html
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "\\| `a` \\*b\\*" in markdown


def test_odd_method_names_can_be_drawn(small_study: Path, tmp_path: Path) -> None:
    frame = result_table(read_ledger(small_study / "ledger")).to_pandas()
    frame["method"] = frame["method"].replace("gradient_ascent", "<b>my $method_{1</b>")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    write_report([tmp_path / "rows.csv"], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;my $method_{1&lt;/b&gt;" in html
    assert "<b>my" not in html


@pytest.mark.usefixtures("no_figures")
def test_two_studies_of_one_name_stay_apart(
    planted_study: Path, small_study: Path, tmp_path: Path
) -> None:
    write_report([planted_study, small_study], tmp_path / "out")
    page = read(tmp_path / "out")
    assert len(page.ids) == len(set(page.ids))
    assert "demo (small)" in page.text
    assert {"demo-verdict.csv", "demo-2-verdict.csv"} <= {
        path.name for path in (tmp_path / "out" / "data").iterdir()
    }


def test_an_output_that_cannot_be_written(planted_study: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="taken: the report cannot be written"):
        write_report([planted_study], tmp_path / "taken")


def test_reports_are_made_without_torch_and_ray() -> None:
    """A report is made on a laptop from a table file: importing it must not need the training
    stack."""
    code = (
        "import sys, ray_unlearn.analysis.report.write; "
        "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
