"""The first screen: what to do, one figure that shows it, and what is open."""

from collections.abc import Sequence

from ray_unlearn.analysis.figures.recommended_settings import settings_figure
from ray_unlearn.analysis.figures.region_profiles import profiled, region_figure
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.report.claims_section import claims_of, grade_key, said_of_all
from ray_unlearn.analysis.report.open_questions import open_section
from ray_unlearn.analysis.report.page import Beside, Block, Paragraph, Picture, Section
from ray_unlearn.analysis.report.recommended_section import recommended_box, recommended_table
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.spec.guideline_file import Guidelines

TITLE = "What to do"
ANCHOR = "what-to-do"
NOTHING = Paragraph(
    "No trial has a finite score, so no setting can be recommended.",
    strong="No guideline is claimed.",
)


def first_screen(
    findings: Findings | None,
    found: Guidelines,
    out: ReportFolder,
    alerts: Sequence[Block] = (),
    best: Sequence[Block] = (),
) -> Section:
    """What to do, from the records of guidelines.json alone; the findings are drawn.

    Args:
        findings: None without a trial that has a finite score.
        found: recommendations, and all claims, made or withheld.
        out: where the figure is written.
        alerts: what went wrong in the studies.
        best: the best trials of foreign tables, which are named whatever is claimed.
    """
    if findings is None or not found.recommendations:
        return Section(TITLE, (*alerts, *(best or (NOTHING,))), ANCHOR)
    blocks: list[Block] = [
        *alerts,
        Beside(
            (recommended_box(found), *open_section(found.guidelines)),
            _figure(findings, found, out),
        ),
        recommended_table(found),
        *best,
        *grade_key(found.guidelines),
        *claims_of(said_of_all(found.guidelines, findings.table.methods)),
    ]
    return Section(TITLE, tuple(blocks), ANCHOR)


def shown_first(findings: Findings) -> tuple[str, ...]:
    """Hyperparameters whose good values the first screen draws: of the only method the first."""
    if len(findings.methods) != 1:
        return ()
    (method,) = findings.methods.values()
    return profiled(method)[:1]


def _figure(
    findings: Findings, found: Guidelines, out: ReportFolder
) -> tuple[Picture | Paragraph, ...]:
    """What each method reaches; of a single one the values of what matters most."""
    if params := shown_first(findings):
        (method,) = findings.methods.values()
        setting = found.recommendations[0].setting
        return out.pictures(
            {"Good values": lambda: region_figure(findings, method, params, setting)}
        )
    return out.pictures({"Recommended settings": lambda: settings_figure(findings, found)})
