"""A report as its readers get it: page, Markdown, guidelines.json, CSV files and command line."""

import html
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from typer.testing import CliRunner

from ray_unlearn.cli.main import app

OPEN = ("withheld", "not_known")


@dataclass(frozen=True)
class WrittenReport:
    """What `ray-unlearn report` wrote and said."""

    out: Path
    said: str

    @classmethod
    def of(cls, out: Path, *arguments: str) -> "WrittenReport":
        """Run the command."""
        result = CliRunner().invoke(app, ["report", *arguments, "-o", str(out)])
        assert result.exit_code == 0, result.output
        return cls(out, one_line(result.stderr))

    @cached_property
    def file(self) -> dict[str, Any]:
        """guidelines.json."""
        content: dict[str, Any] = json.loads((self.out / "guidelines.json").read_text())
        return content

    @cached_property
    def page(self) -> str:
        """The words of the HTML page."""
        text = (self.out / "report.html").read_text(encoding="utf-8")
        text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
        return one_line(
            html.unescape(
                re.sub(r"<wbr>|</?code>", "", re.sub(r"<(?!wbr|/?code)[^>]+>", " ", text))
            )
        )

    @cached_property
    def markdown(self) -> str:
        """The words of the Markdown page."""
        text = html.unescape((self.out / "report.md").read_text(encoding="utf-8"))
        return one_line(text.replace("\\", "").replace("`", "").replace("**", ""))

    @property
    def stated(self) -> list[dict[str, Any]]:
        """Guidelines that state something."""
        return [g for g in self.file["guidelines"] if g["status"] not in OPEN]

    @property
    def held(self) -> list[dict[str, Any]]:
        """Guidelines that do not."""
        return [g for g in self.file["guidelines"] if g["status"] in OPEN]

    def csv(self, name: str) -> pd.DataFrame:
        """A file of `data/`; empty where there is none."""
        path = self.out / "data" / f"{name}.csv"
        return pd.read_csv(path) if path.is_file() else pd.DataFrame()

    def table(self, caption: str) -> list[dict[str, str]]:
        """A table of the Markdown page by the beginning of its caption, by column."""
        lines = (self.out / "report.md").read_text(encoding="utf-8").splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith(f"*{caption}"))
        body = lines[start + 2 :]
        length = next((i for i, line in enumerate(body) if not line.startswith("|")), len(body))
        names, _, *cells = (_cells(line) for line in body[:length])
        return [dict(zip(names, line, strict=True)) for line in cells]


def one_line(text: str) -> str:
    """Words with single spaces."""
    return " ".join(text.split())


def _cells(line: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [part.strip().strip("`").replace("\\", "") for part in parts]
