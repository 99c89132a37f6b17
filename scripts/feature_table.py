"""The features of this package beside its peers', each decided by a command.

    python scripts/feature_table.py                # our column again; the peers' as recorded
    python scripts/feature_table.py --peers DIR    # the peers' too, from their clones in DIR

It writes `docs/features.md`. The rows are in `features.yaml`. A cell of ours is a check of the
package, from `feature_checks.py`, and the name of a test. A cell of a peer is `git grep -c` in its
clone, `DIR/owner+name`; `feature_answers.json` records what it counted, and at which commit.
"""

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from feature_checks import NOT_THERE, REPOSITORY, SOURCES, Feature, ours

ROWS = REPOSITORY / "scripts" / "features.yaml"
ANSWERS = REPOSITORY / "scripts" / "feature_answers.json"
PAGE = REPOSITORY / "docs" / "features.md"

PEERS = {
    "locuslab/open-unlearning": "OpenUnlearning",
    "yaojin17/Unlearning_LLM": "the paper's code",
    "filyp/open-unlearning": "filyp's fork",
}
HEAD = """# Features beside the peers'

Every cell is decided by a command; the end of the page lists them all. A *yes* of ours: a check of
the package finds the feature, and the test that the row names exists (if not: *untested*). A *yes*
of a peer: `git grep` finds it in the peer's code, at the commit below. A *no* only says that an
expression is not found: a peer may have the feature under a name that nobody here thought of.

`python scripts/feature_table.py` makes this page, and `tests/test_features.py` checks it. With
`--peers DIR` it asks the peers again, in clones named `owner+name`.

| | commit | of |
|---|---|---|
"""
SHORT_HEAD = "\n## In short\n\nThe rows that people ask for first; all of them follow.\n\n"
COMMANDS_HEAD = """## What decides

The numbers behind a command: lines (or files, where the cell is a number) found in {names}.
Ours: checks of `scripts/feature_checks.py`, and the test.

"""


def features() -> list[Feature]:
    """The rows in their order."""
    sections = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    return [_feature(section, row) for section, rows in sections.items() for row in rows]


def _feature(section: str, row: dict[str, Any]) -> Feature:
    known = {name: row[name] for name in ("ours", "grep", "test", "unless", "note", "headline")
             if name in row}  # fmt: skip
    return Feature(
        section,
        row["feature"],
        places=tuple(row.get("in", SOURCES)),
        counted=row.get("show") == "files",
        **known,
    )


def asked(rows: list[Feature], folder: Path) -> dict[str, Any]:
    """What the commands of all rows count in each peer's clone, and its commit."""
    return {peer: _peer_answers(rows, _clone(folder, peer)) for peer in PEERS}


def _peer_answers(rows: list[Feature], clone: Path) -> dict[str, Any]:
    commit, date = _git(clone, "log", "-1", "--format=%H %cs", "HEAD").split()
    counts = {
        _as_key(command): _count(_git(clone, *command[1:]))
        for row in rows
        for command in row.commands
    }
    return {"commit": commit, "date": date, "counts": counts}


def _clone(folder: Path, peer: str) -> Path:
    """The git directory of a peer, checked out or bare."""
    clone = folder / peer.replace("/", "+")
    for path in (clone / ".git", clone):
        if (path / "HEAD").is_file():
            return path
    raise SystemExit(
        f"{clone}: no clone; git clone https://github.com/{peer} {peer.replace('/', '+')}"
    )


def _git(clone: Path, *arguments: str) -> str:
    """Output of git; `grep` ends with 1 where it finds nothing."""
    done = subprocess.run(
        ["git", "--git-dir", str(clone), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1) or done.stderr:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _count(output: str) -> list[int]:
    """Files and lines that a `git grep -c` found."""
    lines = output.splitlines()
    return [len(lines), sum(int(line.rpartition(":")[2]) for line in lines)]


def _as_key(command: list[str]) -> str:
    """The command as a shell reads it."""
    plain = re.compile(r"[\w./:=-]+")
    quoted = ["'" + word.replace("'", "'\\''") + "'" for word in command]
    return " ".join(
        word if plain.fullmatch(word) else quote
        for word, quote in zip(command, quoted, strict=True)
    )


def theirs(feature: Feature, answers: dict[str, Any]) -> str:
    """A peer's cell."""
    counted = [_recorded(answers, command) for command in feature.commands]
    if feature.counted:
        return str(counted[0][0])
    return "yes" if counted[0][1] and not any(lines for _, lines in counted[1:]) else "no"


def _recorded(answers: dict[str, Any], command: list[str]) -> list[int]:
    try:
        found: list[int] = answers["counts"][_as_key(command)]
    except KeyError:
        raise SystemExit(
            f"{ANSWERS.name} lacks `{_as_key(command)}`: ask the peers with --peers DIR"
        ) from None
    return found


def page(rows: list[Feature], answers: dict[str, Any]) -> str:
    """`docs/features.md`."""
    parts = [HEAD + "".join(_commit(peer, answers[peer]) for peer in PEERS), SHORT_HEAD]
    parts.append(_table([row for row in rows if row.headline], answers, notes=False))
    commands = [COMMANDS_HEAD.format(names=", ".join(PEERS.values()))]
    for section in dict.fromkeys(row.section for row in rows):
        own = [row for row in rows if row.section == section]
        parts.append(f"\n## {section}\n\n" + _table(own, answers, notes=True))
        lines = "\n".join(_decided(row, answers) for row in own)
        commands.append(f"### {section}: commands\n\n```\n{lines}```\n")
    return "".join(parts) + "\n" + "\n".join(commands).replace("\n\n\n", "\n\n")


def _commit(peer: str, answer: dict[str, Any]) -> str:
    link = f"[{PEERS[peer]}](https://github.com/{peer})"
    return f"| {link} | `{answer['commit'][:12]}` | {answer['date']} |\n"


def _table(rows: list[Feature], answers: dict[str, Any], notes: bool) -> str:
    head = ["", "ray_unlearn", *PEERS.values(), *([""] if notes else [])]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        peers = [theirs(row, answers[peer]) for peer in PEERS]
        lines.append([row.name, ours(row), *peers, *([row.note] if notes else [])])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _decided(row: Feature, answers: dict[str, Any]) -> str:
    test = f"; {row.test}" if row.test and ours(row) not in NOT_THERE else ""
    found = [
        f"{_as_key(command)}  # "
        + ", ".join(str(_recorded(answers[peer], command)[0 if row.counted else 1])
                    for peer in PEERS)
        for command in row.commands
    ]  # fmt: skip
    return "\n".join([f"# {row.name}", f"# ours: {row.ours}{test}", *found]) + "\n"


def _as_json(answers: dict[str, Any]) -> str:
    """One line per command."""
    text = json.dumps(answers, indent=1)
    return re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", text) + "\n"


def recorded() -> dict[str, Any]:
    """What the peers answered when they were last asked."""
    found: dict[str, Any] = json.loads(ANSWERS.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, metavar="DIR", help="folder of `owner+name` clones")
    folder = parser.parse_args().peers
    rows = features()
    if folder is not None:
        answers = asked(rows, folder)
        ANSWERS.write_text(_as_json(answers), encoding="utf-8")
    answers = recorded()
    PAGE.write_text(page(rows, answers), encoding="utf-8")


if __name__ == "__main__":
    main()
