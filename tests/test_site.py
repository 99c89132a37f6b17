"""The site's pages, without its generator: each is named once, and every link leads somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))
import site_pages as site

import ray_unlearn
from ray_unlearn.cli import COMMANDS

ITEM = re.compile(r"( *)(?:[-*]|1\.) ")
"""A line that begins a list wherever it stands, as `2.` does not."""


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return site.pages()


def test_every_command_is_described_where_nothing_that_computes_is_installed() -> None:
    """The site's environment has neither torch nor Ray; and help should not wait for them."""
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'numpy', 'pandas', 'transformers', 'filelock'):\n"
        "    sys.modules[name] = None\n"
        "sys.path.insert(0, 'scripts')\n"
        "from site_reference import commands_page\n"
        "assert '### init' in commands_page()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_navigation_names_each_page_once(pages: dict[str, str]) -> None:
    """But those of a folder that has a list, and source files, which pages link to."""
    listed = tuple(f"{folder}/" for folder in site.LISTED)
    own = {
        name
        for name in pages
        if not name.startswith(listed) and not (REPOSITORY / name.removesuffix(".md")).is_file()
    }
    lists = {f"{folder}/index.md" for folder in site.LISTED}
    named = [*site.named(site.navigation())]
    assert sorted(named) == sorted(own | lists), "add a new page to nav in zensical.toml"


def test_a_page_beside_the_navigation_is_linked_from_another(pages: dict[str, str]) -> None:
    linked = {
        str((Path("/") / name).parent.joinpath(link.partition("#")[0]).resolve().relative_to("/"))
        for name, text in pages.items()
        for link in site.links(text)
        if not link.startswith("http")
    }
    assert set(pages) - linked - {*site.named(site.navigation())} == set()


def test_no_link_leads_nowhere(pages: dict[str, str]) -> None:
    assert site.broken(pages, site.files()) == []


def test_a_link_that_leads_nowhere_is_seen() -> None:
    pages = {
        "index.md": "# Top\n[a](docs/a.md) [b](docs/b.md) [c](docs/a.md#one) [d](docs/a.md#two) "
        "[e](#top) [f](#bottom) ![g](docs/g.png) ![h](docs/h.png) [i](https://x.org/y#z) "
        "`[j](j.md)`\n```\n[k](k.md)\n```\n",
        "docs/a.md": "## One\n```\n# two\n```\n[up](../index.md) [beside](b.md)\n",
    }
    assert site.broken(pages, {"docs/g.png"}) == [
        "index.md: docs/b.md",
        "index.md: docs/a.md#two",
        "index.md: #bottom",
        "index.md: docs/h.png",
        "docs/a.md: b.md",
    ]


def test_a_page_keeps_its_path_and_links_work_in_both_places() -> None:
    text = (
        "[a](../README.md) [b](../docs/) [c](x.py#f) [d](https://x.org/README.md) [e](y.md) "
        "`](x.py)`"
    )
    assert site._relinked("docs/z.md", text, {"docs/x.py.md"}) == (
        "[a](../index.md) [b](../docs/index.md) [c](x.py.md#f) [d](https://x.org/README.md) "
        "[e](y.md) `](x.py)`"
    )


def test_the_reference_has_every_command_name_and_file(pages: dict[str, str]) -> None:
    made = {name.removeprefix("reference/"): text for name, text in pages.items()}
    assert re.findall(r"^### (\S+)$", made["commands.md"], re.M) == list(COMMANDS)
    shown = re.findall(r"^::: ray_unlearn\.(\S+)$", made["python.md"], re.M)
    assert sorted([*shown, "__version__"]) == sorted(ray_unlearn.__all__)
    assert "| `lanes` | integer ≥ 1, ≤ 10000 or `auto` | warm worker" in made["study.md"]
    assert "| `learning_rate` | number > 0 | peak" in made["search_space.md"]
    assert "| `guidelines` * | list of [Guideline](#guideline) |" in made["guidelines.md"]


def read_otherwise(text: str) -> list[str]:
    """Lines that GitHub takes for a list, a table or a part of a list item, and the site for text.

    GitHub wants no empty line before them, and is content with an indent of two spaces.
    """
    found, in_list, in_code, before = [], False, False, ""
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        item = None if in_code or fence else ITEM.match(line)
        begins = line.startswith("|") and not before.startswith("|")
        if not in_code and (
            (item and len(item[1]) % 4)
            or (item and before.strip() and not in_list)
            or (begins and before.strip())
            or ((fence or not before.strip()) and re.match(r" {1,3}\S", line))
        ):
            found.append(line)
        in_code ^= fence
        in_list = bool(item) or line.startswith("    ") or (in_list and bool(line.strip()))
        before = line
    return found


@pytest.mark.parametrize("path", site._found(site.PAGES))
def test_a_page_reads_alike_in_the_repository_and_on_the_site(path: str) -> None:
    found = read_otherwise((REPOSITORY / path).read_text())
    assert found == [], "an empty line before, or four spaces"


def test_what_the_site_reads_otherwise_is_seen() -> None:
    good = "a\n\n- b\n  c\n- d\n\n    e\n\n| f |\n| g |\n\n```\nh\n- i\n\n  j\n```\nk\n2. l\n"
    assert read_otherwise(good) == []
    bad = "a\n- b\n  - c\n\n  d\n\ne\n| f |\n\n1. g\n\n   ```\n   h\n   ```\n"
    assert read_otherwise(bad) == ["- b", "  - c", "  d", "| f |", "   ```"]


def test_the_schema_is_published_where_the_first_lines_of_files_point() -> None:
    for path in (REPOSITORY / "studies").rglob("*.yaml"):
        found = re.match(r"# yaml-language-server: \$schema=(\S+)", path.read_text())
        assert found
        assert str((path.parent / found[1]).resolve().relative_to(REPOSITORY)) in site.files()


def test_actions_build_the_site() -> None:
    jobs = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"]
    assert [step["run"] for step in jobs["site"]["steps"] if "run" in step] == ["make site"]
