"""The page of a report, apart from how it is written: sections of blocks, as plain data.

The HTML and the Markdown template render this and nothing else, so the two say the same. Text is
plain: the templates escape it, and show names between backticks as code.
"""

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Paragraph:
    """Some sentences, with `strong` first and in bold."""

    text: str
    strong: str = ""
    style: str = ""
    """"" (plain), `verdict` (large), `note` (small) or `box` (framed)."""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; `muted`: in small print."""

    items: tuple[str, ...]
    muted: bool = False


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Command:
    """A line for a shell."""

    text: str


@dataclass(frozen=True)
class GradedClaim:
    """A claim in two parts, which together are its text: what to do, and what that rests on."""

    grade: str
    claim: str
    evidence: str
    id: str
    """What `ray-unlearn why` calls it."""


@dataclass(frozen=True)
class Claims:
    """Claims that are made."""

    items: tuple[GradedClaim, ...]


@dataclass(frozen=True)
class GradeKey:
    """What the grades mean."""

    meanings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Heading:
    """A column: short label, unit or direction below it, and what it means."""

    label: str
    hint: str = ""
    meaning: str = ""
    numeric: bool = True
    wide: bool = False
    """Cells hold sentences, which may be broken into lines."""


@dataclass(frozen=True)
class Table:
    """Cells as text, one tuple per line."""

    caption: str
    headings: tuple[Heading, ...]
    lines: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()
    """The method of each line, for its colour; empty: no colours."""

    @property
    def stacked(self) -> bool:
        """Whether a narrow screen shows a line's cells below each other: sentences need room."""
        return any(head.wide for head in self.headings)


@dataclass(frozen=True)
class Picture:
    """A figure that has been drawn."""

    anchor: str
    title: str
    caption: str
    svg: Markup
    file: str
    """Stem of its files in `figures/` and `data/`."""
    width: int
    """Percentage of the page's width, so that text has one size."""


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown on request, under these words."""

    summary: str
    blocks: tuple["Block", ...]
    strong: str = ""


@dataclass(frozen=True)
class Beside:
    """Blocks beside each other, where there is room."""

    left: tuple["Block", ...]
    right: tuple["Block", ...]


@dataclass(frozen=True)
class Section:
    """A heading with what is below it.

    Inner sections with an anchor are in the contents too.
    """

    title: str
    blocks: tuple["Block", ...]
    anchor: str = ""
    mark: str = ""
    """Method whose colour the title has."""
    style: str = ""
    """"" (plain), `inner` (no rule above), `question` (a ground of its own) or `study` (muted)."""

    @property
    def listed(self) -> tuple["Section", ...]:
        """Inner sections for the contents."""
        return tuple(it for it in self.blocks if isinstance(it, Section) and it.anchor)


Block = (
    Paragraph
    | Bullets
    | Facts
    | Command
    | Claims
    | GradeKey
    | Table
    | Picture
    | Fold
    | Beside
    | Section
)


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    lead: str
    subjects: tuple[str, ...]
    sections: tuple[Section, ...]


def paragraphs(texts: tuple[str, ...] | list[str]) -> tuple[Paragraph, ...]:
    """A paragraph for each text."""
    return tuple(Paragraph(text) for text in texts)


def bullets_of(items: tuple[str, ...] | list[str], *, muted: bool = False) -> tuple[Bullets, ...]:
    """A list, or nothing where there is no item."""
    return (Bullets(tuple(items), muted),) if items else ()
