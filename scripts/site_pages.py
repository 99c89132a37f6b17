"""The pages of the site in one folder, which the generator reads: `make site`.

    python scripts/site_pages.py build/site

A page of the site has the path that its file has in the repository, so links work in both. README
is the first page. Made here and kept nowhere: a reference of commands, Python names and fields
(`site_reference.py`), lists of the folders that pages link to, and a page for each source file in
them. A link that leads nowhere, to a page or to a heading, ends with exit code 1.
"""

import argparse
import ast
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from site_reference import SCHEMAS, commands_page, python_page, schema_page

REPOSITORY = Path(__file__).parent.parent
CONFIG = REPOSITORY / "zensical.toml"
PAGES = ("*.md", "docs/**/*.md", "cluster/**/*.md", "ray_unlearn/demo/data/NOTICE.md")
FILES = ("docs/images/*", "docs/schema/*.json", "docs/reference/**/*.*", "LICENSE", "CITATION.cff")
"""What pages show or offer for download, as it is."""
LISTED = {
    "docs/decisions": "Decisions",
    "examples": "Examples",
    "studies": "Ready studies",
    "cluster/container": "Container",
}
"""Folders that pages link to, and the titles of their lists."""
SHOWN = ("examples/*", "studies/**/*.yaml", "cluster/*/*.*", "cluster/container/*")
"""Source files that get a page of their own."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".sbatch": "bash"}
STYLE = """/* Names in the first column of a table stay whole. */
.md-typeset table:not([class]) td:first-child code { white-space: nowrap; }
/* On a phone a table scrolls, and its last column can be read. */
.md-typeset table:not([class]) td:nth-child(3):last-child { min-width: 12rem; }
/* Plots have a white ground: in the dark they are turned over, and keep their hues. */
[data-md-color-scheme="slate"] .md-typeset img { filter: invert(0.93) hue-rotate(180deg); }
"""
LINK = re.compile(r"(?P<code>^( *)(```+).*?^\2\3$|`[^`\n]+`)|\]\((?P<to>[^)\s]+)\)", re.M | re.S)
"""The target of a link, or a piece of code, in which nothing is a link."""
HEADING = re.compile(r"^#{1,6} (.+)$", re.M)


def stage(target: Path) -> None:
    """Write all pages and files of the site below a folder, which is made anew."""
    shutil.rmtree(target, ignore_errors=True)
    for name, text in pages().items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for file in files():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / file, target / file)
    (target / "site.css").write_text(STYLE, encoding="utf-8")


def pages() -> dict[str, str]:
    """Every page by its path below the site's source folder, in Markdown."""
    read = {name: (REPOSITORY / name).read_text("utf-8") for name in _found(PAGES)}
    made = {f"{name}.md": _source_page(name) for name in _found(SHOWN) if not name.endswith(".md")}
    made |= {f"{folder}/index.md": _listing(folder) for folder in LISTED}
    made |= {f"{name}.md": _relinked(name, made[f"{name}.md"], set(made))
             for name in _found(("examples/*.ipynb",))}  # fmt: skip
    written = {_page(name): _relinked(name, text, set(made)) for name, text in read.items()}
    reference = {f"reference/{stem}.md": schema_page(stem) for stem in SCHEMAS}
    reference |= {"reference/commands.md": commands_page(), "reference/python.md": python_page()}
    return written | made | reference


def files() -> set[str]:
    """Every file of the site that is no page, by its path in the repository."""
    return {name for name in _found(FILES) if not name.endswith(".md")}


def links(text: str) -> list[str]:
    """Where the links and pictures of a page lead to."""
    return [found["to"] for found in LINK.finditer(text) if found["to"]]


def broken(found: dict[str, str], others: set[str]) -> list[str]:
    """Links of pages that lead to no page, file or heading: `page: link`."""
    anchors = {name: _anchors(text) for name, text in found.items()}
    return [f"{name}: {link}" for name, text in found.items() for link in links(text)
            if not _leads(name, link, anchors, others)]  # fmt: skip


def named(nav: list[Any]) -> Iterator[str]:
    """The pages that the navigation names, in its order."""
    for entry in nav:
        for page in [entry] if isinstance(entry, str) else entry.values():
            if isinstance(page, str):
                yield page
            else:
                yield from named(page)


def navigation() -> list[Any]:
    """The navigation of the site's configuration."""
    with CONFIG.open("rb") as file:
        found: list[Any] = tomllib.load(file)["project"]["nav"]
    return found


def _leads(name: str, link: str, anchors: dict[str, set[str]], others: set[str]) -> bool:
    path, _, anchor = link.partition("#")
    if re.match(r"[a-z]+:", link):
        return True
    target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
    if target not in anchors:
        return target in others and not anchor
    return not anchor or anchor in anchors[target]


def _anchors(text: str) -> set[str]:
    """Names of headings as GitHub and the generator make them."""
    fences = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found: list[str] = []
    for heading in HEADING.findall(fences):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        found.append(f"{name}_{found.count(name)}" if name in found else name)
    return set(found)


def _found(patterns: tuple[str, ...]) -> list[str]:
    """Files of the repository, by their paths in it."""
    paths = {path for pattern in patterns for path in REPOSITORY.glob(pattern) if path.is_file()}
    return sorted(str(path.relative_to(REPOSITORY)) for path in paths)


def _page(name: str) -> str:
    """Where the page of a Markdown file is: a README is the first page of its folder."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/index.md".lstrip("/") if file == "README.md" else name


def _relinked(name: str, text: str, made: set[str]) -> str:
    """A page whose links to READMEs, folders and source files lead to their pages."""

    def there(link: re.Match[str]) -> str:
        path, mark, anchor = (link["to"] or "").partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(name), path))
        if not path or re.match(r"[a-z]+:", path):
            return link[0]
        if path.endswith("README.md"):
            path = path.removesuffix("README.md") + "index.md"
        elif f"{target}.md" in made:
            path = f"{path}.md"
        elif (REPOSITORY / target).is_dir():
            path = f"{path.rstrip('/')}/index.md"
        return f"]({path}{mark}{anchor})"

    return LINK.sub(there, text)


def _listing(folder: str) -> str:
    """The files of a folder, each with its first words."""
    lines = [f"# {LISTED[folder]}", ""]
    own = [name for name in _found((f"{folder}/*", f"{folder}/*/*")) if "__pycache__" not in name]
    for name in own:
        link = name.removeprefix(f"{folder}/")
        if link.endswith(".md"):
            lines.append(f"- [{_title(name)}]({link})")
        else:
            lines.append(f"- [{link}]({link}.md): {_first_words(name)}".rstrip(": "))
    return "\n".join(lines) + "\n"


def _title(name: str) -> str:
    return (REPOSITORY / name).read_text("utf-8").partition("\n")[0].lstrip("# ")


def _first_words(name: str) -> str:
    """The first line of a file that is meant for people."""
    text = (REPOSITORY / name).read_text("utf-8")
    if name.endswith(".py"):
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    if name.endswith(".ipynb"):
        return _cells(text)[0][1].partition("\n")[0].lstrip("# ")
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")]
    return next((line for line in comments if "$schema=" not in line), "")


def _source_page(name: str) -> str:
    """A source file as a page; of a notebook, its cells."""
    text = (REPOSITORY / name).read_text("utf-8")
    file = name.rpartition("/")[2]
    if name.endswith(".ipynb"):
        cells = [f"```python\n{source}\n```" if kind == "code" else source
                 for kind, source in _cells(text)]  # fmt: skip
        return "\n\n".join([*cells, f"*The notebook: `{name}`.*"]) + "\n"
    language = LANGUAGES.get(Path(name).suffix, "")
    return f"# {file}\n\n`{name}`\n\n````{language}\n{text.rstrip()}\n````\n"


def _cells(notebook: str) -> list[tuple[str, str]]:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook)["cells"]]


def main() -> int:
    """Write the pages; returns 1 if a link leads nowhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", type=Path, help="folder for the pages, made anew")
    target = parser.parse_args().target
    stage(target)
    found = broken(pages(), files())
    for link in found:
        print(f"leads nowhere: {link}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
