"""What stands behind a sentence of a report, and whether it comes out the same again."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ray_unlearn.analysis.numerals import counted, plain
from ray_unlearn.analysis.report.derive import derive_again, trials_as_given
from ray_unlearn.analysis.why.claim_checks import ClaimCheck, claim_checks
from ray_unlearn.analysis.why.named_records import (
    RECOMMENDED,
    NamedRecord,
    record_of,
    records_of,
)
from ray_unlearn.analysis.why.recorded_sources import recorded_sources
from ray_unlearn.analysis.why.relevant_trials import RelevantTrials, relevant_trials
from ray_unlearn.spec.guideline_file import Guidelines

STATISTICS_BEHIND = {
    RECOMMENDED: "the lowest expected score of a Gaussian process over the settings, all trials; "
    "probability and cost from its joint draws",
    "range": "isolation profile of a Gaussian process of all groups; probability of being good, "
    "least over groups, from joint draws; its predictions of trials left out; whether the score "
    "depends on it, by the test behind `rank`",
    "avoid": "values whose probability of being good is at most 0.1 over the number of groups, "
    "beyond the 90 % interval of the edge",
    "rank": "whether the score depends on each hyperparameter: score test of a variance component "
    "against its shuffled values (max-T), groups added, all trials",
    "interaction": "single-index fit in log lr + kappa log steps, trial bootstrap",
    "stop_rule": "score at the rule's evaluation less that at the trial's best step, chosen on one "
    "half and scored on the other; trials resampled within groups",
    "method_choice": "paired differences over groups of the expected best of k random trials and "
    "of shares of good trials; random halves and trials that change places both settle it; Holm",
    "budget": "share of the space within the tolerance of the best, from joint draws of the "
    "response surface",
}
"""By `spec.guideline_file.ClaimKind`, and of recommendations."""
BEST_TRIAL = "the lowest score on the half that chooses: too few trials for a response surface"
Outcome = Literal["identical", "differs", "not computed"]


@dataclass(frozen=True)
class Recomputation:
    """The same record computed again from its sources.

    Attributes:
        outcome: `identical`: every field of it; `not computed`: a source is not here.
        notes: changed sources, other versions, missing files, and fields that differ.
        sources_changed: whether a source has another digest than when the file was written.
    """

    outcome: Outcome
    notes: tuple[str, ...] = ()
    sources_changed: bool = False


@dataclass(frozen=True, repr=False)
class Explanation:
    """What stands behind a sentence; `print` it.

    Attributes:
        record: the sentence and its numbers.
        statistic: what was computed, in words.
        checks: thresholds with what was measured.
        trials: at most 20 of the trials it rests on, the most telling first, and their number.
        seed: of every random draw.
        recomputed: whether it comes out the same from its sources.
    """

    record: NamedRecord
    statistic: str
    checks: tuple[ClaimCheck, ...]
    trials: RelevantTrials
    seed: int
    recomputed: Recomputation

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against the sentence: computed again it is not another one."""
        return self.recomputed.outcome != "differs" and not self.recomputed.sources_changed

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "record": self.record.content,
            "text": self.record.text,
            "statistic": self.statistic,
            "checks": [asdict(check) for check in self.checks],
            "n_trials": self.trials.count,
            "n_inside": self.trials.inside,
            "trials": self.trials.shown.to_dict("records"),
            "seed": self.seed,
            "recomputed": asdict(self.recomputed),
            "sound": self.sound,
        }

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        content = self.record.content
        evidence = content.get("evidence") or {
            name: content[name] for name in ("n_trials", "n_groups", "source")
        }
        estimates = content.get("estimates") or {
            name: content[name] for name in ("regret", "best_trial_regret") if content.get(name)
        }
        blocks = [
            [f"{self.record.id}: {self.record.status}", self.record.text],
            [f"statistic: {self.statistic}", *_numbers("estimates", estimates)],
            [*map(str, self.checks)],
            [f"withheld because: {why['text']}" for why in content.get("withheld_because", ())],
            _numbers("evidence", evidence),
            self._trial_lines(),
            [f"seed of every random draw: {self.seed}"],
            [f"computed again: {self.recomputed.outcome}", *self.recomputed.notes],
        ]
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)

    def _trial_lines(self) -> list[str]:
        rests = f"it rests on {counted(self.trials.count, 'trial')}"
        if self.trials.inside is not None:
            rests += f", {self.trials.inside:,} of them at the values it names"
        shown = self.trials.shown.astype(object).map(_cell)
        shown = shown.loc[:, (shown != "").any()]
        if shown.empty:
            return [rests]
        if len(shown) < self.trials.count:
            rests += f"; the {len(shown)} most telling"
        cells = [list(shown.columns), *shown.to_numpy().tolist()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
        return [f"{rests}:", *lines]


def explanation(found: Guidelines, name: str, near: Sequence[Path], place: str) -> Explanation:
    """What stands behind a sentence.

    Args:
        found: the guidelines.json.
        name: id of the sentence.
        near: where the sources may be (`recorded_sources`).
        place: what the user gave for the file.

    Raises:
        UserError: no sentence has this id, or a source is there but cannot be read.
    """
    record = record_of(found, name, place)
    recomputed, trials = _again(found, record, near)
    if trials is None:
        behind = RelevantTrials(pd.DataFrame(), record_trials(record))
    else:
        behind = relevant_trials(record, found, trials)
    return Explanation(
        record,
        _statistic(record),
        tuple(claim_checks(record, found.provenance, found.score.model_dump())),
        behind,
        int(found.provenance.get("seed", 0)),
        recomputed,
    )


def _statistic(record: NamedRecord) -> str:
    if record.content.get("source") == "best_trial":
        return BEST_TRIAL
    return STATISTICS_BEHIND.get(record.kind, record.kind)


def record_trials(record: NamedRecord) -> int:
    """The number of trials that a record says it rests on."""
    return int(record.content.get("evidence", record.content)["n_trials"])


def _again(
    found: Guidelines, record: NamedRecord, near: Sequence[Path]
) -> tuple[Recomputation, pd.DataFrame | None]:
    """The record computed again, and the trials of its sources."""
    if "settings" not in found.provenance:
        note = "the file does not say how its sources were read: write the report again"
        return Recomputation("not computed", (note,)), None
    sources = recorded_sources(found.provenance, near)
    if sources.missing:
        note = (
            f"not found near {' or '.join(map(str, near)) or 'here'}: "
            f"{', '.join(sources.missing)}; run this where they are"
        )
        return Recomputation("not computed", (note,)), None
    derived = derive_again(list(sources.paths), found.provenance)
    notes, changed = _sources_changed(found.provenance, derived.guidelines.provenance)
    now = records_of(derived.guidelines).get(record.id)
    differences = _differences(record, now)
    notes += [*differences, *_versions(found.provenance, derived.guidelines.provenance)]
    trials = None if derived.table is None else trials_as_given(derived.table)
    outcome: Outcome = "differs" if differences else "identical"
    return Recomputation(outcome, tuple(notes), changed), trials


def _sources_changed(then: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], bool]:
    """What sources were, and which have changed since."""
    notes, changed = [], False
    current = {one["sha256_first_12"]: one["name"] for one in now["sources"]}
    others = [one for one in current.items() if one[0] not in _digests(then)]
    for source in then["sources"]:
        digest = source["sha256_first_12"]
        if digest in current:
            notes.append(f"source {source['name']}: SHA-256 {digest}, as recorded")
            continue
        changed = True
        notes.append(
            f"source {source['name']} has CHANGED since: SHA-256 {digest} was recorded, now "
            f"{', '.join(digest for digest, _ in others)}"
        )
    return notes, changed


def _digests(provenance: dict[str, Any]) -> set[str]:
    return {one["sha256_first_12"] for one in provenance["sources"]}


def _versions(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Packages of another version than the file's."""
    changed = [
        f"{name} {version} -> {now['versions'].get(name)}"
        for name, version in then.get("versions", {}).items()
        if now["versions"].get(name) != version
    ]
    return [f"other versions: {', '.join(changed)}"] if changed else []


def _differences(then: NamedRecord, now: NamedRecord | None) -> list[str]:
    """Fields of a record that come out otherwise."""
    if now is None:
        return ["there is no such sentence now"]
    before, after = (dict(_flat(one.content)) for one in (then, now))
    return [
        f"{name}: {_cell(before.get(name))} recorded, {_cell(after.get(name))} now"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def _flat(content: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(content, dict):
        return [(name, content)]
    parts = (_flat(value, f"{name}.{key}" if name else key) for key, value in content.items())
    return [pair for part in parts for pair in part]


def _numbers(title: str, content: dict[str, Any]) -> list[str]:
    """`title:` and a line for each number that is known."""
    known = [(name, value) for name, value in _flat(content) if value not in (None, [], ())]
    return [f"{title}:", *(f"  {name}: {_cell(value)}" for name, value in known)] if known else []


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, dict):
        return "; ".join(f"{name} {_cell(part)}" for name, part in value.items())
    if isinstance(value, float):
        return "" if math.isnan(value) else plain(value)
    return str(value)
