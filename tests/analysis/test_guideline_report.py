"""Guidelines on the page: nothing claimed is lost or altered, nothing is claimed that the file does
not claim."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from surfaces import planted, valley
from test_report import PageReader
from typer.testing import CliRunner

from ray_unlearn.analysis import figures
from ray_unlearn.analysis.figures.look import MOST_DOTS
from ray_unlearn.analysis.figures.region_profiles import profiled, region_figure
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.leave_one_out import HeldoutGroup
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings
from ray_unlearn.analysis.report.claims_section import claim_parts, ranges_in_short
from ray_unlearn.analysis.report.comparison_sections import difference_section
from ray_unlearn.analysis.report.hypervolumes import hypervolume_data
from ray_unlearn.analysis.report.open_questions import REASONS, held_sentence, withheld_groups
from ray_unlearn.analysis.report.page import Paragraph
from ray_unlearn.analysis.report.published_question import published_answer
from ray_unlearn.analysis.report.recommended_section import recommendation_text
from ray_unlearn.analysis.report.write import write_report
from ray_unlearn.analysis.statistics.axis_effect import AxisEffect
from ray_unlearn.analysis.statistics.contests import RobustnessClaim
from ray_unlearn.analysis.statistics.good_regions import Region
from ray_unlearn.analysis.statistics.good_share import GoodShare
from ray_unlearn.analysis.statistics.interaction import Interaction
from ray_unlearn.analysis.statistics.paired_difference import (
    GroupDifference,
    Interval,
    Outcome,
    PairedDifference,
)
from ray_unlearn.analysis.statistics.robustness import TuningCurve
from ray_unlearn.analysis.statistics.surface_check import SurfaceCheck
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.cli.main import app
from ray_unlearn.spec.guideline_file import (
    ClaimedRegion,
    Evidence,
    Guideline,
    Guidelines,
    Reason,
    Scope,
    load_guidelines,
)

GROUPS = ("books", "<b>code</b>", "a|b *c*")
METHODS = ("ascent_descent_in_distribution", "gradient_ascent")


def region_of(axis: object, n: int, *, good: bool) -> Region:
    """Good in the middle fifth, or nowhere surely."""
    x = np.linspace(0, 1, 41)
    profile = 2 * np.abs(x - 0.5) ** 1.5
    p_good = np.clip(1.1 - 4 * np.abs(x - 0.5), 0.0, 1.0 if good else 0.6)
    at = axis.from_unit  # type: ignore[attr-defined]
    return Region(
        axis=axis,  # type: ignore[arg-type]
        grid=at(x),
        profile=profile,
        low=profile * 0.7,
        high=profile * 1.3 + 0.02,
        p_good=p_good,
        core=tuple(at([0.45, 0.55])) if good else None,
        low_edge=tuple(at([0.4, 0.44])) if good else None,
        high_edge=tuple(at([0.56, 0.6])) if good else None,
        low_censored=False,
        high_censored=False,
        excluded=(tuple(at([0.0, 0.2])),),
        best=float(at([0.5])[0]),
        n_trials=n,
        n_used=n,
    )


def robustness(outcome: Outcome, groups: tuple[str, ...]) -> RobustnessClaim:
    sign = {"more robust": 1.0, "less robust": -1.0, "not settled": 0.1}[outcome]
    margin = 0.05 if outcome != "not settled" else 0.2
    difference = PairedDifference(
        statistic="share_within_own_best",
        larger_is_better=True,
        method_a=METHODS[0],
        method_b=METHODS[1],
        groups=tuple(GroupDifference(g, 0.5 + 0.1 * sign, 0.5, 40, 40) for g in groups),
        mean=0.1 * sign,
        over_trials=Interval(0.1 * sign - margin, 0.1 * sign + margin, 0.01),
        over_groups=None,
        better=3,
        worse=0,
        n_seeds=3,
        scope="these domains only",
    )
    area = dataclasses.replace(
        difference, statistic="area_under_tuning_curve", larger_is_better=False
    )
    return RobustnessClaim(
        METHODS[0],
        METHODS[1],
        0.1,
        20,
        (difference, difference, area),
        (outcome,) * 3,
        (0.01,) * 3,
        outcome,
        None,
        "these domains only",
    )


def synthetic(table: TrialTable, outcome: Outcome = "more robust") -> Findings:
    """Findings that allow a claim about the first hyperparameter of each method, without any
    statistics."""
    methods = {}
    ks = tuple(range(1, 21))
    best = tuple(1 / k for k in ks)
    kappa = Interaction(1.0, (0.9, 1.1), False, 0.1, 0.1, True, True, 100, 1000)
    for name, axes in table.axes.items():
        own = table.of(name)
        n = len(own)
        held = tuple(
            HeldoutGroup(g, {"learning_rate": (2e-5, 4e-5)}, 20, 100, 4, 0.1, 0.3, 0.5, 20)
            for g in table.groups
        )
        methods[name] = MethodFindings(
            method=name,
            trials=own,
            axes=axes,
            models=("m",),
            domains=table.groups,
            evidence=Evidence(
                n_trials=n, n_groups=len(table.groups), n_seeds=3, sampler="drawn from the space"
            ),
            drawn=own,
            surface_evidence=Evidence(n_trials=n, n_groups=len(table.groups), n_seeds=3),
            fits={},
            check=SurfaceCheck(n, n, 0.1, 1.0),
            effects={
                a.name: AxisEffect(6.0, 2.0, 0.001) if i == 0 else AxisEffect(0.5, 2.0, 0.6)
                for i, a in enumerate(axes)
            },
            regions=tuple(region_of(a, n, good=i == 0) for i, a in enumerate(axes)),
            trade_off=kappa,
            trade_off_response="forget_nll",
            weight_trade_off=kappa,
            stopping=None,
            good_share=GoodShare(0.3, 0.2, 0.4, 7, 5, 11),
            curve=TuningCurve(ks, best, best, best, 3.0, n, 0),
            heldout=held,
        )
    headline = robustness(outcome, table.groups) if set(METHODS) <= set(methods) else None
    return Findings(table, methods, headline, None, 0)


def foreign(path: Path, methods: tuple[str, ...] = METHODS, trials: int = 40) -> Path:
    frame = planted(dict.fromkeys(methods, valley()), trials=trials, groups=GROUPS).trials
    columns = ["trial", "method", "domain", "seed", "learning_rate", "w_r", "score"]
    frame[columns].assign(drawn_by="random").rename(
        columns={"learning_rate": "lr", "score": "loss"}
    ).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ray_unlearn.analysis.report.derive.find", lambda table, seed: synthetic(table)
        )
        yield patch


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing figures takes most of a report's time; tests of its words do without."""
    monkeypatch.setattr(
        "ray_unlearn.analysis.report.report_files.drawn", lambda _: ("<svg></svg>", b"", 100)
    )


READ = {
    "mapping": {"lr": "learning_rate", "drawn_by": "sampler"},
    "score": "loss",
    "tolerance": 0.1,
}


@pytest.fixture(scope="module")
def out(patched: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guidelines")
    write_report([foreign(folder / "table.csv")], folder / "out", **READ)  # type: ignore[arg-type]
    return folder / "out"


def plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def test_every_claim_is_on_the_page_with_its_grade_and_evidence(out: Path) -> None:
    page = PageReader((out / "report.html").read_text(encoding="utf-8")).text
    found = load_guidelines(out / "guidelines.json")
    assert len(found.claimed) >= 6
    for guideline in found.claimed:
        view = claim_parts(guideline)
        assert guideline.text == f"[{guideline.grade}] {view.claim} {view.evidence}"
        shown = f"{view.grade} {plain(view.claim)} {plain(view.evidence)} {guideline.id}"
        assert page.count(shown) == 1, "once, with what `why` calls it"
        assert page.count(plain(view.claim)) == 1
    for guideline in found.guidelines:
        for reason in (reason.text for reason in guideline.withheld_because):
            assert plain(reason) in page


def test_the_page_claims_no_more_than_the_file(out: Path) -> None:
    html = (out / "report.html").read_text(encoding="utf-8")
    claims = re.findall(r'<li><span class="grade grade-', html)
    assert len(claims) == len(load_guidelines(out / "guidelines.json").claimed)


def test_no_heading_stands_alone(out: Path) -> None:
    html = (out / "report.html").read_text(encoding="utf-8")
    bare = re.findall(r"</h[2-4]>\s*<(?:h[1-4]|/section|/main)", html)
    assert bare == []


def test_markdown_says_the_same(out: Path) -> None:
    markdown = (out / "report.md").read_text(encoding="utf-8")
    for guideline in load_guidelines(out / "guidelines.json").claimed:
        view = claim_parts(guideline)
        assert view.evidence.split(" Held out")[0].split(". Stated")[0].rstrip(".") in markdown
    assert "\n## Methods compared\n\n" in markdown
    assert all(
        (out / "figures" / name).is_file() for name in re.findall(r"\(figures/([^)]+)\)", markdown)
    )


def test_names_with_markup_stay_text(out: Path) -> None:
    html, markdown = (
        (out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md")
    )
    assert "&lt;b&gt;code&lt;/b&gt;" in html
    assert "<b>" not in html
    assert "<b>" not in markdown
    assert "a\\|b \\*c\\*" in markdown


def test_every_figure_has_its_numbers(out: Path) -> None:
    drawings = {path.stem for path in (out / "figures").glob("*.svg")}
    assert {
        "importance_dots",
        "tuning_curves",
        "paired_groups",
        "kappa_intervals",
        "heldout_regret",
    } <= drawings
    assert {f"region_profiles-{method}" for method in METHODS} <= drawings
    assert drawings == {path.stem for path in (out / "figures").glob("*.png")}
    modules = {path.stem for path in Path(figures.__file__).parent.glob("*.py")}
    assert {stem.partition("-")[0] for stem in drawings} <= modules, "drawn where it says"
    tables = {"trials", "columns", "variance_split"}
    assert drawings | tables == {path.stem for path in (out / "data").glob("*.csv")}


def test_the_numbers_of_a_figure_are_those_of_the_findings(out: Path) -> None:
    frame = pd.read_csv(out / "data" / f"region_profiles-{METHODS[0]}.csv")
    core = frame[(frame["kind"] == "core") & (frame["param"] == "learning_rate")].iloc[0]
    claim = next(
        g
        for g in load_guidelines(out / "guidelines.json").claimed
        if g.kind == "range" and g.scope.method == METHODS[0]
    )
    assert claim.search_space is not None
    assert core["low"] == pytest.approx(claim.search_space.low, rel=1e-5)
    trials = pd.read_csv(out / "data" / "trials.csv")
    own = trials[trials["method"] == METHODS[0]]
    dots = frame[(frame["kind"] == "trial") & (frame["param"] == "learning_rate")]
    best = own.sort_values("score_selection").groupby("group").first()["score"]
    np.testing.assert_allclose(dots["regret"], own["score"] - own["group"].map(best))


def test_provenance_names_no_date_and_no_path(out: Path) -> None:
    text = (out / "guidelines.json").read_text(encoding="utf-8")
    provenance = json.loads(text)["provenance"]
    assert provenance["command"] == (
        "ray-unlearn report table.csv --map lr=learning_rate --map drawn_by=sampler --score loss "
        "--tolerance 0.1 -o report"
    )
    assert provenance["sources"][0]["name"] == "table.csv"
    written = (out / "data" / "trials.csv").read_bytes()
    assert provenance["trials_sha256"] == hashlib.sha256(written).hexdigest(), (
        "the page names the file by this digest"
    )
    assert set(provenance["versions"]) >= {
        "ray_unlearn",
        "numpy",
        "pandas",
        "scipy",
        "sklearn",
        "optuna",
    }
    for name in ("guidelines.json", "report.html", "report.md"):
        assert str(out.parent) not in (out / name).read_text(encoding="utf-8")


@pytest.mark.usefixtures("patched")
def test_same_table_same_bytes(out: Path, tmp_path: Path) -> None:
    table = foreign(tmp_path / "table.csv")
    write_report([table], tmp_path / "again", **READ)  # type: ignore[arg-type]
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert [
        name
        for name in names
        if (out / name).read_bytes() != (tmp_path / "again" / name).read_bytes()
    ] == []


@pytest.mark.usefixtures("patched", "no_figures")
def test_an_earlier_file_is_compared(out: Path, tmp_path: Path) -> None:
    table = foreign(tmp_path / "table.csv")
    old = json.loads((out / "guidelines.json").read_text(encoding="utf-8"))
    old["guidelines"] = [g for g in old["guidelines"] if g["kind"] != "range"]
    (tmp_path / "old.json").write_text(json.dumps(old), encoding="utf-8")
    old_file, since = tmp_path / "old.json", tmp_path / "since"
    write_report([table], since, since=old_file, **READ)  # type: ignore[arg-type]
    page = PageReader((tmp_path / "since" / "report.html").read_text(encoding="utf-8")).text
    assert "learning rate, range: new" in page
    assert "--since old.json" in page


def test_without_an_earlier_file_the_page_says_so() -> None:
    (without,) = difference_section(None).blocks
    assert isinstance(without, Paragraph)
    assert "--since" in without.text
    assert difference_section([]).blocks == (Paragraph("Neither file claims anything."),)


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [("more robust", "Yes"), ("less robust", "No, less robust"), ("not settled", "Not settled")],
)
def test_the_published_question_is_answered_whichever_way_it_comes_out(
    outcome: Outcome, answer: str
) -> None:
    table = planted(dict.fromkeys(METHODS, valley()), trials=10, groups=("a", "b", "c"))
    given = published_answer(synthetic(table, outcome), ())
    assert given.words.startswith(answer)
    assert "90 % interval" in given.numbers[1]
    assert "that takes five groups" in given.numbers[-1]


def test_the_question_without_both_methods_is_not_answered() -> None:
    assert published_answer(None, ()).words == "Not answered here"


def held(kind: str, method: str, param: str | None, why: Reason) -> Guideline:
    return Guideline.model_validate(
        {
            "id": f"{kind}/{method}/{param}",
            "kind": kind,
            "status": "withheld",
            "withheld_because": (why,),
            "scope": Scope(method=method),
            "param": param,
            "evidence": Evidence(n_trials=36, n_groups=1, n_seeds=1),
        }
    )


def test_withheld_claims_are_gathered_by_what_they_lack() -> None:
    thin = Reason(kind="trials", text="25 are needed", trials_needed=64)
    claims = [
        held(kind, m, param, thin)
        for m in ("m1", "m2")
        for kind, param in (("range", "lr"), ("rank", None))
    ]
    claims.append(
        held("range", "m3", "lr", Reason(kind="importance", text="not shown to matter (p = 0.4)"))
    )
    groups = withheld_groups(claims)
    assert [(g.title, g.count) for g in groups] == [
        ("because there are too few trials", 4),
        ("because nothing is shown to matter", 1),
    ]
    assert groups[0].summary == "`m1`, `m2`: 64 more trials of each needed"
    assert groups[0].entries == ("`m1`, `m2` (all claims): 25 are needed.",)
    assert groups[1].entries[0].startswith("`m3`: lr (range): not shown")
    assert held_sentence(groups).startswith(
        "5 claims are withheld: 4 because there are too few trials, 1 because"
    )
    assert set(REASONS) == set(get_args(Reason.model_fields["kind"].annotation)), (
        "each has its title"
    )


def test_advice_never_shows_a_finite_edge_where_it_is_censored() -> None:
    def claimed(low: bool, high: bool) -> Guideline:
        return Guideline(
            id="r",
            kind="range",
            status="claimed",
            grade="B",
            scope=Scope(method="m"),
            param="learning_rate",
            search_space=ClaimedRegion(type="float", low=1e-6, high=1e-4, log=True),
            low_is_boundary=low,
            high_is_boundary=high,
            evidence=Evidence(n_trials=1, n_groups=1, n_seeds=1),
        )

    ends = ((False, False), (True, False), (False, True))
    cells = [ranges_in_short([claimed(low, high)], "m") for low, high in ends]
    rate = "learning rate"
    assert cells == [
        f"{rate} 1e-6 \u2013 1e-4 [B]", f"{rate} \u2264 1e-4 [B]", f"{rate} \u2265 1e-6 [B]"
    ]  # fmt: skip
    withheld = held("range", "m", "lr", Reason(kind="trials", text="why"))
    assert ranges_in_short([withheld], "m") == ""


def test_many_trials_are_thinned_in_the_drawing_only() -> None:
    table = planted({"m": valley()}, trials=2000)
    findings = synthetic(table)
    method = findings.methods["m"]
    drawing = region_figure(findings, method, profiled(method))
    assert drawing is not None
    dots = drawing.data[
        (drawing.data["kind"] == "trial") & (drawing.data["param"] == "learning_rate")
    ]
    assert len(dots) == 2000
    assert dots["drawn"].sum() == MOST_DOTS
    assert "1,500 of them, chosen at random, are drawn" in drawing.caption
    panel = drawing.figure().axes[0]
    assert (
        sum(len(points.get_offsets()) for points in panel.collections if points.get_rasterized())
        == MOST_DOTS
    )


def test_a_censored_core_has_an_arrow_and_a_finite_one_has_none() -> None:
    table = planted({"m": valley()}, trials=30)
    findings = synthetic(table)
    method = findings.methods["m"]
    for censored in (False, True):
        regions = (
            dataclasses.replace(method.regions[0], low_censored=censored),
            *method.regions[1:],
        )
        changed = dataclasses.replace(method, regions=regions)
        drawing = region_figure(findings, changed, profiled(changed))
        assert drawing is not None
        arrows = [
            text
            for text in drawing.figure().axes[0].texts
            if getattr(text, "arrow_patch", None) is not None
        ]
        assert len(arrows) == int(censored)


def test_hypervolume_is_the_share_of_the_square_that_is_dominated() -> None:
    """Every trial reaches (0.2, 0.5) of a unit square: 0.8 x 0.5 = 0.4 is dominated, whatever is
    drawn."""
    table = planted({"m": valley()}, trials=8)
    rows = table.rows.assign(forget_gap=0.4, utility_loss=1.0)
    found = hypervolume_data(dataclasses.replace(table, rows=rows, vanilla_gap={"books": 2.0}))
    assert found["expected"].tolist() == pytest.approx([0.4])
    assert found["trials"].tolist() == [4]
    assert hypervolume_data(dataclasses.replace(table, rows=rows)).empty, "no reference is known"


@pytest.mark.usefixtures("patched", "no_figures")
def test_command_line_prints_the_page_and_says_what_is_claimed(tmp_path: Path) -> None:
    table = foreign(tmp_path / "table.csv")
    options = [
        "--map",
        "lr=learning_rate",
        "--score",
        "loss",
        "--sampler",
        "random",
        "--map",
        "drawn_by=ignore",
        "--tolerance",
        "0.1",
    ]
    done = CliRunner().invoke(
        app, ["report", str(table), "-o", str(tmp_path / "out"), *options, "--json"]
    )
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    found: Guidelines = load_guidelines(tmp_path / "out" / "guidelines.json")
    assert shown["page"] == str((tmp_path / "out" / "report.html").resolve())
    assert shown["claimed"] == [g.id for g in found.claimed]
    first, *lines = done.stderr.splitlines()
    assert first.startswith(f"reading {table}"), "there is something to see while it computes"
    assert lines[0] == recommendation_text(found.recommendations[0], found.score)
    assert lines[1:-1] == [g.text for g in found.claimed]
    assert lines[-1].startswith(f"{len(found.claimed)} claimed, {shown['likely']} likely, ")
    best = min(found.best_trials, key=lambda trial: trial.score)
    assert f"; best trial of {best.study}: {best.label} ({best.method}), loss" in lines[-1]
    assert shown["best"][0]["hyperparameters"] == best.hyperparameters != {}
