"""The rules of the house that ruff, mypy and the import contracts cannot check, read from the
sources alone.

One word has one meaning: public names and file stems are unique in the package. No module imports
itself by way of others. What is not deterministic enters through `ray_unlearn.environment`.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "ray_unlearn"

# What breaks a rule today. These lists only get shorter, and are gone when the house is finished.
SAME_NAME: set[str] = set()
IN_A_CIRCLE: set[str] = set()
NOT_THROUGH_THE_SEAM: set[str] = set()

STATE_MACHINES = (
    "early_stopping",
    "conductor",
    "confirm",
    "drawn_points",
    "hub",
    "hub_jobs",
    "hub_lanes",
    "hub_line",
    "interrupt",
    "lane",
    "lane_pool",
    "lane_watcher",
    "lane_workspace",
    "messages",
    "monitor",
    "notebook_display",
    "optuna_journal",
    "optuna_trials",
    "placement",
    "progress",
    "recorder",
    "resume",
    "samplers",
    "search",
    "stages",
    "study",
    "ray_tune",
    "thin_trial",
    "trial_errors",
)
"""Modules of `execution` that a test must be able to replay, like all of `store`.

Not among them: what starts Ray and talks to it (`lane_fleet`, `lane_trainer`, `ray_runtime`,
`ray_secret`, `ray_hub`, `cluster`), and `tensorboard_log`, whose events bear the time of day."""

OUTSIDE = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep", "localtime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "random": None,
    "secrets": None,
    "uuid": {"uuid1", "uuid4"},
    "socket": {"gethostname", "getfqdn"},
    "threading": {"Thread", "Timer", "current_thread", "get_ident"},
    "os": {"getpid", "urandom"},
}
"""By module or class: what depends on when, where and by whom it is called; None: everything."""

DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORT = re.compile(r"from (ray_unlearn[\w.]*) import (\([^)]*\)|[\w, ]+)")


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, parsed."""
    return {
        dotted(path): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def dotted(path: Path) -> str:
    """`.../ray_unlearn/spec/__init__.py` -> `ray_unlearn.spec`."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def shared_names(modules: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """Public functions and classes that more than one module defines, and where."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, tree in modules.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[node.name].append(module)
    return {
        name: places
        for name, places in found.items()
        if len(set(places)) > 1 and not name.startswith("_")
    }


def shared_stems(modules: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """Names of files and folders that stand in more than one folder."""
    found: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        found[module.rpartition(".")[2]].append(module)
    return {stem: places for stem, places in found.items() if len(places) > 1}


def imports(tree: ast.Module, known: Mapping[str, object]) -> Iterator[str]:
    """Modules of the package that a module imports, at its start or later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module


def circles(modules: Mapping[str, ast.Module]) -> set[str]:
    """Modules that import themselves by way of others."""
    direct = {name: set(imports(tree, modules)) - {name} for name, tree in modules.items()}

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = set(direct[start])
        while ahead:
            seen |= ahead
            ahead = set().union(*(direct[name] for name in ahead)) - seen
        return seen

    return {name for name in direct if name in reachable(name)}


@cache
def names_in(tree: ast.Module) -> set[str]:
    """What can be imported from a module; too many rather than too few."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, DEFINES):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # names that are loaded when they are asked for
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def missing(text: str, modules: Mapping[str, ast.Module]) -> Iterator[str]:
    """Imports from the package that it does not have, also in programs kept as strings."""
    for module, names in IMPORT.findall(text):
        if module not in modules:
            yield module
            continue
        has = names_in(modules[module])
        for name in re.findall(
            r"(\w+)(?: as \w+)?(?:,|\s*$)", re.sub(r"#.*", "", names.strip("()"))
        ):
            if name not in has and f"{module}.{name}" not in modules:
                yield f"{module}.{name}"


def outside(tree: ast.Module) -> Iterator[str]:
    """Uses of the clock, chance, the host or threads: `time.sleep`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = OUTSIDE.get(node.value.id, ())
            if names is None or node.attr in names:
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in OUTSIDE:
            names = OUTSIDE[node.module]
            for alias in node.names:
                if names is None or alias.name in names:
                    yield f"{node.module}.{alias.name}"


def is_governed(module: str) -> bool:
    """Whether a module must be replayable."""
    _, layer, *rest = [*module.split("."), "", ""]
    return layer == "store" or (layer == "execution" and any(r in STATE_MACHINES for r in rest))


def test_a_public_name_has_one_meaning(modules: dict[str, ast.Module]) -> None:
    found = shared_names(modules)
    assert {name: found[name] for name in found.keys() - SAME_NAME} == {}


def test_a_file_is_found_by_its_name_alone(modules: dict[str, ast.Module]) -> None:
    assert shared_stems(modules) == {}


def test_no_module_imports_itself_by_way_of_others(modules: dict[str, ast.Module]) -> None:
    assert circles(modules) - IN_A_CIRCLE == set()


def test_store_and_state_machines_can_be_replayed(modules: dict[str, ast.Module]) -> None:
    found = {
        f"{name}: {use}"
        for name, tree in modules.items()
        if is_governed(name)
        for use in outside(tree)
    }
    assert found - NOT_THROUGH_THE_SEAM == set()


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "scripts", "docs", "examples"])
def test_what_is_imported_is_there(folder: str, modules: dict[str, ast.Module]) -> None:
    """Slow tests and benchmarks seldom run: a name that has moved would break them unseen."""
    files = [
        path for path in (REPOSITORY / folder).rglob("*") if path.suffix in (".py", ".md", ".ipynb")
    ]
    found = {
        str(path.relative_to(REPOSITORY)): [*missing(path.read_text(), modules)] for path in files
    }
    found.pop("tests/test_house.py", None)
    assert {path: names for path, names in found.items() if names} == {}


def test_an_import_of_what_is_not_there_is_seen() -> None:
    modules = parsed(
        p="", ray_unlearn="", ray_unlearn__a="def f(): ...\nX = 1\nfrom q import g as h"
    )
    good = (
        "from ray_unlearn.a import f, X\nfrom ray_unlearn import a\n"
        "from ray_unlearn.a import (\n    h as i,\n)"
    )
    assert list(missing(good, modules)) == []
    bad = "P = 'from ray_unlearn.b import f'\nfrom ray_unlearn.a import f, g"
    assert list(missing(bad, modules)) == ["ray_unlearn.b", "ray_unlearn.a.g"]


def test_every_state_machine_is_there(modules: dict[str, ast.Module]) -> None:
    """A module that was renamed would otherwise be checked no more."""
    stems = {
        name.rpartition(".")[2] for name in modules if name.startswith("ray_unlearn.execution")
    }
    assert set(STATE_MACHINES) - stems == set()


def parsed(**sources: str) -> dict[str, ast.Module]:
    return {name.replace("__", "."): ast.parse(source) for name, source in sources.items()}


def test_each_rule_sees_what_breaks_it() -> None:
    twice = parsed(
        p__a__x="class Part: ...\ndef _own(): ...", p__b__x="def Part(): ...\ndef _own(): ..."
    )
    assert shared_names(twice) == {"Part": ["p.a.x", "p.b.x"]}
    assert shared_stems(twice) == {"x": ["p.a.x", "p.b.x"]}
    late = "def f():\n    from p import a"
    assert circles(
        parsed(p__a="import p.b", p__b="from p.c import f", p__c=late, p__d="import p.a")
    ) == {
        "p.a",
        "p.b",
        "p.c",
    }


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("import time\ntime.sleep(1)", "time.sleep"),
        ("from time import monotonic", "time.monotonic"),
        ("from datetime import UTC, datetime\ndatetime.now(UTC)", "datetime.now"),
        ("import random\npause = random.uniform", "random.uniform"),
        ("import uuid\nuuid.uuid4().hex", "uuid.uuid4"),
        ("import socket\nsocket.gethostname()", "socket.gethostname"),
        ("import os\nos.getpid()", "os.getpid"),
        ("import threading\nthreading.Thread(target=print)", "threading.Thread"),
    ],
)
def test_what_is_not_deterministic_is_seen(source: str, use: str) -> None:
    assert list(outside(ast.parse(source))) == [use]


def test_what_is_deterministic_is_let_pass() -> None:
    source = "import time, os\ntime.strftime('%Y')\nos.fsync(1)\nenvironment.sleep(1)"
    assert list(outside(ast.parse(source))) == []
