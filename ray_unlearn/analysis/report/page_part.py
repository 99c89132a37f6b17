"""A part of the page, as the templates need it."""

from dataclasses import dataclass

from ray_unlearn.analysis.figures.catalogue import Drawing
from ray_unlearn.analysis.report.claims_view import Claim
from ray_unlearn.analysis.report.report_files import Output, Picture
from ray_unlearn.analysis.report.table_view import Shown


@dataclass(frozen=True)
class Part:
    """A part of the page. Empty lists are left out; `texts` says what is missing, so that no
    heading stands alone."""

    anchor: str
    title: str
    texts: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    bullets: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    """Claims withheld."""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Shown, ...] = ()
    parts: tuple["Part", ...] = ()
    mark: str = ""
    """Method whose colour the title has."""
    folded: str = ""
    """Figures are shown on request, under these words."""


def pictures_of(out: Output, *drawings: Drawing | None) -> tuple[Picture, ...]:
    """Those that there is something to draw for, written."""
    return tuple(out.picture(drawing) for drawing in drawings if drawing is not None)
