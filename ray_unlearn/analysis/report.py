"""The report: one self-contained HTML page, the same in Markdown, figures and the numbers behind them.

Written from the ledger or a result table alone, without a date and without a path of the machine: the same results give
the same bytes, so a report can be kept under version control and compared.
"""

import re
import shlex
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from ray_unlearn.analysis import wording
from ray_unlearn.analysis.figures import Drawing, draw_all
from ray_unlearn.analysis.health import boundary_hits, unscored
from ray_unlearn.analysis.style import as_png, as_svg, inline_svg, look
from ray_unlearn.analysis.table import StudyResults, load
from ray_unlearn.analysis.verdict import verdict
from ray_unlearn.analysis.view import DIRECTIONS, Shown, baseline_table, chosen_table, outcome_table, verdict_table
from ray_unlearn.results.schema import COLUMNS
from ray_unlearn.spec.errors import StorageError

UNKNOWN = (("retraining_flops", "0"), ("retraining_flops", "0.0"))
"""Header entries that stand for "not known"."""
WHOLE_COLUMNS = ("number", "update", "order", "seed")
GLOSSARY = (
    "forget_ppl", "approximate_ppl_reporting", "retain_ppl_reporting", "general_ppl_reporting", "forget_gap_reporting",
    "utility_loss_reporting", "score_reporting", "exact_distance_reporting", "mia_loss_auc_reporting",
    "mia_min_k_pp_20_auc_reporting", "forget_extraction_strength", "efficiency_ratio",
)  # fmt: skip


@dataclass(frozen=True)
class _Picture:
    """A drawing as the templates need it."""

    anchor: str
    title: str
    caption: str
    svg: Markup
    file: str


@dataclass(frozen=True)
class _Section:
    """One study as the templates need it: words and tables, no arithmetic left."""

    study: StudyResults
    anchor: str
    headline: list[str]
    verdict: Shown
    chosen: Shown
    outcomes: Shown
    baselines: Shown | None
    baseline_notes: list[str]
    health: list[tuple[str, str]]
    boundaries: list[str]
    pictures: list[_Picture]
    provenance: list[tuple[str, str]]
    limits: list[str]


def write_report(sources: list[Path], out: Path) -> Path:
    """Write `report.html`, `report.md`, `figures/` and `data/` into `out`; gives the HTML page's path.

    Args:
        sources: study directories or result tables (`analysis.table`).
        out: folder, made where it does not exist; files of an earlier report are replaced.

    Raises:
        UserError: a source that cannot be reported on.
        StorageError: `out` cannot be written.
    """
    results = load(sources)
    try:
        for folder in (out, out / "figures", out / "data"):
            folder.mkdir(parents=True, exist_ok=True)
        anchors = _anchors(results.studies)
        sections = [_section(study, anchor, out) for study, anchor in zip(results.studies, anchors, strict=True)]
        for name, text in _pages(sections).items():
            (out / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"{out}: the report cannot be written: {error}") from None
    return out / "report.html"


def _section(study: StudyResults, anchor: str, out: Path) -> _Section:
    table = verdict(study)
    drawings = draw_all(study)
    _write_csv(table, out / "data" / f"{anchor}-verdict.csv")
    _write_csv(study.baselines.reset_index(names="baseline"), out / "data" / f"{anchor}-baselines.csv")
    hits = boundary_hits(study)
    return _Section(
        study=study,
        anchor=anchor,
        headline=wording.headline(study, table),
        verdict=verdict_table(study, table),
        chosen=chosen_table(study, table),
        outcomes=outcome_table(table),
        baselines=baseline_table(study),
        baseline_notes=[
            text for text in (wording.agreement_sentence(study), wording.attack_check_sentence(study)) if text
        ],
        health=_health(study),
        boundaries=[wording.boundary_sentence(hit) for _, hit in hits.iterrows()],
        pictures=[_picture(drawing, anchor, out) for drawing in drawings],
        provenance=_provenance(study),
        limits=wording.limits(study, table),
    )


def _picture(drawing: Drawing, anchor: str, out: Path) -> _Picture:
    name = f"{anchor}-{drawing.name}"
    svg = as_svg(drawing.figure)
    (out / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8", newline="\n")
    (out / "figures" / f"{name}.png").write_bytes(as_png(drawing.figure))
    _write_csv(drawing.data, out / "data" / f"{name}.csv")
    picture = Markup(
        inline_svg(svg, name, str(escape(drawing.title)))
    )  # our own SVG: names in it are drawn as outlines
    return _Picture(name, drawing.title, drawing.caption, picture, name)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Every digit, so that the file holds the very numbers that were drawn."""
    whole = {name: "Int64" for name in WHOLE_COLUMNS if name in frame}
    frame.astype(whole).to_csv(path, index=False, lineterminator="\n")


def _anchors(studies: tuple[StudyResults, ...]) -> list[str]:
    """File and anchor names: letters, digits, `.`, `_` and `-` of the study's name, made unique."""
    anchors: list[str] = []
    for study in studies:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", study.name).strip("-.") or "study"
        anchor, copy = stem, 1
        while anchor in anchors:
            copy += 1
            anchor = f"{stem}-{copy}"
        anchors.append(anchor)
    return anchors


def _health(study: StudyResults) -> list[tuple[str, str]]:
    rows = study.rows[study.rows["update"].notna()]
    facts = [
        ("Model", study.model or "not recorded"),
        ("Domain", study.domain or "not recorded"),
        ("Trials", wording.outcome_sentence(study)),
        ("Evaluation rows", f"{len(rows):,}, of which {unscored(study):,} have no finite score"),
        ("Seeds", ", ".join(str(seed) for seed in study.seeds) or "not recorded"),
    ]
    if study.spec is None:
        facts.append(("Search", "not recorded in a result table"))
    else:
        search = study.spec.search
        random = "" if search.sampler in ("qmc", "random", "grid") else (
            f", the first {wording.share(search.quasi_random_share)} of each method's trials drawn quasi-randomly"
        )  # fmt: skip
        stop = "no early stopping" if search.scheduler.type == "none" else f"early stopping by {search.scheduler.type}"
        facts.append(("Search", f"{search.sampler} sampler{random}; {stop}; sampler seed {search.seed}"))
    if study.notes:
        facts.append(("Notes in the ledger", f"{len(study.notes):,}: " + "; ".join(study.notes[:3])))
    return facts


def _provenance(study: StudyResults) -> list[tuple[str, str]]:
    facts = [("Source", study.source), ("Source SHA-256 (first 12 digits)", study.source_digest)]
    if study.spec is not None:
        facts.append(("Study digest", study.spec.results_digest()))
    header = {name: value for name, value in study.header.items() if (name, value) not in UNKNOWN}
    return facts + [(name.replace("_", " ").replace(".", ": "), value) for name, value in sorted(header.items())]


def _command(sections: list[_Section]) -> str:
    places = [section.study.place for section in sections]
    return " ".join(["ray-unlearn report", *(shlex.quote(place) for place in dict.fromkeys(places)), "-o report"])


def _pages(sections: list[_Section]) -> dict[str, str]:
    names = [section.study.key for section in sections]
    context: dict[str, Any] = {
        "title": f"Unlearning study: {names[0]}" if len(names) == 1 else f"Unlearning studies: {', '.join(names)}",
        "sections": sections,
        "feasibility": wording.feasibility_definition(),
        "glossary": [COLUMNS[name] for name in GLOSSARY],
        "directions": DIRECTIONS,
        "command": _command(sections),
        "versions": _versions(),
    }
    package = files("ray_unlearn.analysis")
    css = package.joinpath("style.css").read_text(encoding="utf-8")
    loader = jinja2.PackageLoader("ray_unlearn.analysis")
    html = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html.filters["code"] = _code
    html.globals["colour"] = lambda method, study: look(method, study.methods).colour
    markdown = jinja2.Environment(
        loader=loader, autoescape=False, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_markdown, keep_trailing_newline=True,
    )  # fmt: skip
    markdown.globals["table"] = _markdown_table
    return {
        "report.html": html.get_template("report.html.jinja").render(context, css=Markup(css)),
        "report.md": markdown.get_template("report.md.jinja").render(context),
    }


def _code(text: str) -> Markup:
    """Escaped text with `names` between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _markdown(value: Any) -> Any:
    """Every value put into the Markdown page: no HTML, no broken table, no accidental markup outside backticks."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    flat = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
    if flat in COLUMNS:
        return flat
    parts = flat.split("`")
    return "`".join(part if i % 2 else re.sub(r"([*_\[\]])", r"\\\1", part) for i, part in enumerate(parts))


def _markdown_table(table: Shown) -> Markup:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    heads = [_markdown(f"{head.label} ({head.hint})" if head.hint else head.label) for head in table.headings]
    rule = ["---:" if head.numeric else "---" for head in table.headings]
    lines = [line([_markdown(cell) for cell in cells]) for cells in table.lines]
    return Markup("\n".join([f"*{_markdown(table.caption)}*", "", line(heads), line(rule), *lines]))


def _versions() -> str:
    try:
        own = metadata.version("ray-unlearn")
    except metadata.PackageNotFoundError:
        own = "from a checkout"
    versions = {
        "ray_unlearn": own,
        "pandas": pd.__version__,
        "numpy": np.__version__,
        "matplotlib": matplotlib.__version__,
    }
    return ", ".join(f"{name} {version}" for name, version in versions.items())
