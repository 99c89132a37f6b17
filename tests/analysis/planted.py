"""A synthetic study with a planted truth: seven methods whose best learning rate and update are
known.

Written through the real `Ledger`, so a reader of it reads what a study writes. The numbers look
like those of the small demo model: vanilla forget perplexity 36, target 77, an exactly retrained
model at 87.
"""

import math
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_unlearn.spec.search_space import Choice, FloatRange
from ray_unlearn.spec.search_spec import SchedulerSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import BaselineMeasured, Header, RowMeasured, TrialAsked, TrialEnded
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import ATTACKS, HALVES, SETS, Row

DEMO = Path(__file__).resolve().parents[2] / "studies" / "demo.yaml"
VANILLA_PPL = {"forget": 36.0, "approximate": 77.0, "retain": 37.0, "general": 60.0}
EXACT_PPL = {"forget": 87.0, "approximate": 91.0, "retain": 43.0, "general": 64.0}
RETRAINING_FLOPS = 4.0e13

# Per method: nats of forgetting per unit of dose (lr / 3e-4 * updates / 10), and nats of damage to
# retain and general.
SURFACES: dict[str, tuple[float, float, float]] = {
    "gradient_ascent": (1.6, 1.0, 1.1),
    "random_labels": (0.9, 0.6, 0.6),
    "adversarial_samples": (1.0, 0.55, 0.5),
    "ascent_descent_general": (0.9, 0.4, 0.05),
    "ascent_kl_general": (0.8, 0.45, 0.04),
    "ascent_descent_in_distribution": (0.75, 0.06, 0.12),
    "ascent_kl_in_distribution": (0.7, 0.12, 0.15),
}


def demo_spec(**search: Any) -> StudySpec:
    """The demo study with ranges and evaluations of its own, so that tuning the demo moves no
    planted truth.

    `search`: values that replace those of its `search` section.
    """
    spec = load_study(DEMO)
    ranges = {"learning_rate": (1e-4, 1e-3), "w_r": (0.5, 10.0), "steps": (1, 40)}
    spaces = {
        method: space.model_copy(
            update={
                "parameters": {
                    name: parameter.model_copy(
                        update=dict(zip(("low", "high"), ranges[name], strict=True))
                    )
                    if name in ranges
                    else parameter
                    for name, parameter in space.parameters.items()
                }
            }
        )
        for method, space in spec.spaces.items()
    }
    evaluation = spec.evaluation.model_copy(update={"at": (3, 6, 10, 16, 25, 40)})
    settings = {"quasi_random_share": 0.6, "scheduler": SchedulerSpec()} | search
    return spec.model_copy(
        update={
            "search": spec.search.model_copy(update=settings),
            "spaces": spaces,
            "evaluation": evaluation,
        }
    )


def row_of(nll: dict[str, float], auc: float, **extra: float) -> Row:
    """A full evaluation row from the four nlls (nats/token; `name` or `name_half`) and one AUC for
    all attacks."""
    row: Row = {}
    for name in SETS:
        for suffix in [""] if name == "forget" else [f"_{half}" for half in HALVES]:
            value = nll.get(name + suffix, nll.get(name, 0.0))
            row[f"{name}_nll{suffix}"] = value
            row[f"{name}_ppl{suffix}"] = math.exp(value) if value < 700 else math.inf
            row[f"{name}_accuracy{suffix}"] = math.exp(-value / 4)
            row[f"{name}_kl{suffix}"] = 0.0
    for half in HALVES:
        row |= {f"mia_{attack}_auc_{half}": auc for attack in ATTACKS}
    row |= {"forget_extraction_strength": 0.05, "forget_exact_memorisation": row["forget_accuracy"]}
    return row | extra


def baselines() -> dict[str, Row]:
    """Vanilla and exactly retrained model."""
    vanilla = row_of({name: math.log(ppl) for name, ppl in VANILLA_PPL.items()}, auc=0.954)
    exact = row_of({name: math.log(ppl) for name, ppl in EXACT_PPL.items()}, auc=0.525)
    for half in HALVES:
        vanilla[f"mia_min_k_pp_20_auc_{half}"] = 0.931
        exact[f"mia_min_k_pp_20_auc_{half}"] = 0.511
    return {"vanilla": vanilla, "exact_retrain": exact}


def planted_row(
    method: str,
    learning_rate: float,
    update: int,
    w_r: float,
    noise: random.Random,
    *,
    exact: bool = True,
) -> Row:
    """Metrics of the planted surface: forgetting grows with the dose, damage with its square."""
    forget, retain, general = SURFACES[method]
    dose = learning_rate / 3e-4 * update / 10
    shield = 1 / (1 + 0.3 * math.log1p(w_r)) if method.startswith("ascent_") else 1.0
    nll = {name: math.log(ppl) for name, ppl in VANILLA_PPL.items()}
    start, target = nll["forget"], nll["approximate"]
    nll["forget"] += min(forget * dose * (0.5 + 0.5 * shield) + 0.15 * dose**2.2, 30.0)
    for half in HALVES:
        for name, harm in (("retain", retain), ("general", general), ("approximate", 0.3)):
            wobble = noise.gauss(0, 0.008)
            nll[f"{name}_{half}"] = (
                nll[name] + min(harm * shield * dose**1.6, 30.0) - 0.02 * min(dose, 1) + wobble
            )
    auc = 0.5 + 0.454 * (target - nll["forget"]) / (target - start)
    row = row_of(nll, max(auc, 0.5 - 0.3 * math.tanh(max(0.0, 0.5 - auc))))
    for half in HALVES:
        row[f"mia_min_k_pp_20_auc_{half}"] = 0.5 + 0.95 * (row[f"mia_loss_auc_{half}"] - 0.5)
    row["forget_extraction_strength"] = 0.06 * math.exp(-dose)
    cost = 1.0 if not method.startswith("ascent_") else 2.0
    row |= {
        "flops": 2.1e10 * update * cost,
        "wall_s": 0.105 * update * cost,
        "forget_tokens": 1016.0 * update,
    }
    known = baselines() if exact else {"vanilla": baselines()["vanilla"]}
    return scored(row, Baselines(**known, retraining_flops=RETRAINING_FLOPS))


def header_of(spec: StudySpec) -> Header:
    """A ledger's header."""
    versions = {"python": "3.11.9", "torch": "2.9.0", "ray": "2.60.0"}
    digests = {"forget": "3f1c9a", "retain": "77ab01"}
    return Header(
        spec=spec.model_dump(mode="json"),
        domain="Shakespeare scenes",
        code_version="0.1.0",
        other={"versions": versions, "data_digests": digests},
    )


@contextmanager
def quick_ledger(study: Path, spec: StudySpec, header: Header | None = None) -> Iterator[Ledger]:
    """A new ledger in a study directory, without the wait for the disk at each event."""
    fsync, os.fsync = os.fsync, lambda _: None
    try:
        with Ledger.create(study / "ledger", header or header_of(spec)) as ledger:
            yield ledger
    finally:
        os.fsync = fsync


def write_trial(
    ledger: Ledger,
    spec: StudySpec,
    method: str,
    chosen: dict[str, Any],
    rows: dict[int, Row],
    *,
    status: str = "complete",
    reason: str = "",
) -> None:
    """One trial with its rows by update, and its outcome (`running`: none yet)."""
    number = len(ledger.record.trials)
    seeds = spec.search.trial_seeds
    config = spec.trial_config(
        spec.spaces[method].resolve(chosen), method, seeds[number % len(seeds)], "context"
    )
    known: dict[str, Any] = {"number": number, "trial_id": config.id}
    ledger.append(TrialAsked(**known, config=config.model_dump(mode="json")))
    for update, metrics in rows.items():
        ledger.append(RowMeasured(**known, attempt=0, update=update, metrics=metrics))
    if status != "running":
        ledger.append(TrialEnded(**known, attempt=0, status=status, reason=reason))


def plant(
    study: Path, trials: int = 12, seed: int = 0, exact: bool = True, spec: StudySpec | None = None
) -> Path:
    """A whole study of `trials` per method: complete, pruned, diverged, out of memory and failed
    ones."""
    spec = spec or demo_spec(trials_per_method=trials)
    draw = random.Random(seed)
    with quick_ledger(study, spec) as ledger:
        for name, metrics in baselines().items():
            if exact or name == "vanilla":
                ledger.append(BaselineMeasured(name=name, metrics=metrics))
        for index in range(trials * len(spec.methods)):
            method = spec.methods[index % len(spec.methods)]
            chosen = {}
            for name, parameter in spec.spaces[method].sampled().items():
                if isinstance(parameter, FloatRange):
                    chosen[name] = math.exp(
                        draw.uniform(math.log(parameter.low), math.log(parameter.high))
                    )
                elif isinstance(parameter, Choice):
                    chosen[name] = draw.choice(parameter.choices)
                else:
                    chosen[name] = draw.randint(parameter.low, parameter.high)
            rate, weight = chosen["learning_rate"], chosen.get("w_r", 1.0)
            updates = spec.evaluation.updates(spec.spaces[method].resolve(chosen).steps)
            rows = {u: planted_row(method, rate, u, weight, draw, exact=exact) for u in updates}
            status, reason = "complete", ""
            if (
                method in ("gradient_ascent", "random_labels", "adversarial_samples")
                and rate > 6e-4
            ):
                rows = {u: row for u, row in rows.items() if u <= 10}
                status, reason = "diverged", "non-finite loss at update 14"
            elif index % 17 == 16:
                rows, status, reason = (
                    {u: row for u, row in rows.items() if u <= 16},
                    "pruned",
                    "asha: rung 16",
                )
            elif index % 41 == 40:
                rows, status, reason = {}, "out_of_memory", "device out of memory"
            write_trial(ledger, spec, method, chosen, rows, status=status, reason=reason)
    return study
