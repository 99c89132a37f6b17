"""Chosen rows of a study trained again: relearning and rounding, beside the retrained model.

Used by `strength_evidence`. Each result is a line of a JSON file, so that a stopped run goes on;
where a longer campaign has found a better row, the better one is measured too.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from ray_unlearn.spec.attack_spec import AttackSpec
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_file import where_it_is_now
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.status import open_study
from ray_unlearn.unlearn.attacks.quantising import round_weights
from ray_unlearn.unlearn.attacks.relearning import relearning_curve
from ray_unlearn.unlearn.attacks.victim import loss_on, victim_of
from ray_unlearn.unlearn.data import EVALUATED
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.model import exact_retrain_sources, load_model
from ray_unlearn.unlearn.single_trial import Single
from ray_unlearn.unlearn.strength import put_back, trained_weights

BITS = (8, 4)
WHOLE_CHANNEL = 2**20
"""A group of weights for each output channel."""
SETS = ("forget", "retain", "general")
HOW = AttackSpec(updates=(5, 20))
SAME_NLL = 1e-3
"""Nats/token by which a model that is made again may differ from the row."""


def chosen_rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The best row as trained and the best one at equal forgetting of each method.

    Args:
        rows: of one study, with finite scores; the selection half chooses.
    """
    chosen = []
    for method, own in rows.groupby("method", sort=False):
        for kind, pool in (("equal", own[own["strength"] != 1]),
                           ("trained", own[own["strength"] == 1])):  # fmt: skip
            if not pool.empty:
                row = pool.loc[pool["score_selection"].idxmin()]
                names = ("number", "update", "strength", "forget_nll", "score_reporting")
                found = {name: float(row[name]) for name in names}
                chosen.append({"method": method, "kind": kind} | found)
    return chosen


def probe(place: Path, chosen: list[dict[str, Any]], results: Path) -> None:
    """Measure what is not in the results file yet, the two baselines first."""
    known = set()
    if results.exists():
        known = {_key(json.loads(line)) for line in results.read_text().splitlines()}
    bare = {"number": -1.0, "update": 0.0}
    wanted = [
        {"method": name, "kind": "baseline", "strength": strength} | bare
        for name, strength in (("vanilla", 0.0), ("exact_retrain", 1.0))
    ]
    wanted = [{"world": place.name} | line for line in (*wanted, *chosen)]
    missing = [line for line in wanted if _key(line) not in known]
    if not missing:
        return
    spec, record = open_study(place)
    single = Single(where_it_is_now(spec, place), record=record)
    with results.open("a") as file:
        for line in missing:
            _make(single, record.trials, line)
            found = _measured(single)
            again = found["plain"]["forget"]
            if abs(again - line.get("forget_nll", again)) > SAME_NLL:
                raise SystemExit(f"{line}: made again, its forget NLL is {again}")
            file.write(json.dumps(line | found) + "\n")
            file.flush()


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("world", "method", "kind", "number", "update", "strength"))


def _make(single: Single, trials: Any, line: dict[str, Any]) -> None:
    """Make the policy the model of that line."""
    policy = single.workspace.policy
    single.workspace.reset()
    if line["method"] == "exact_retrain":
        source = exact_retrain_sources(single.spec.model)["exact_retrain"]
        put_back(policy.parameters, list(load_model(single.spec.model, source).parameters()))
        return
    if line["method"] == "vanilla":
        return
    config = validated(TrialConfig, trials[int(line["number"])].config, "ledger: config")
    assert single.can_repeat(config)
    update = int(line["update"])
    short = config.model_copy(update={"steps": update, "evaluate_at": ()})
    assert config.schedule == "constant"
    *_, ended = unlearn(single.workspace, short)
    assert isinstance(ended, Ended)
    assert ended.status == "complete"
    policy.mix(trained_weights(policy.parameters), line["strength"])


def _measured(single: Single) -> dict[str, Any]:
    victim = victim_of(single.workspace)
    splits = single.workspace.data.splits

    def nlls() -> dict[str, float]:
        return {name: loss_on(victim, splits[EVALUATED[name]])[0] for name in SETS}

    plain, rounded = nlls(), {}
    for bits in BITS:
        with victim.restored():
            round_weights(victim.model, bits, WHOLE_CHANNEL)
            rounded[str(bits)] = nlls()
    curve = {str(update): nll for update, nll in relearning_curve(victim, "forget", HOW).items()}
    return {"plain": plain, "rounded": rounded, "relearning": curve}
