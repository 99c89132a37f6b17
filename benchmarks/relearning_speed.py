"""Which hyperparameters decide how fast a model that has forgotten relearns, at equal forgetting.

    python benchmarks/relearning_speed.py results/relearning.jsonl

Four methods on a demo world, the same quasi-random configurations of each (learning rate, updates,
w_r where the method has it), a few of them with two unlearning seeds. The trained state is set to
the strength at which the forget set meets its target, so that all models have forgotten
alike; one that is out of reach of strength 2 is counted and left out. Then the attack `relearn`: a
quarter of the forget set is learnt again, the rest measured. What is asked about is the share
undone after 20 updates; a configuration's is the mean of its seeds.

Each result is a line of the file, and the same command goes on where it was stopped. `--report`
only reads.

    python benchmarks/relearning_speed.py EVIDENCE/probes.jsonl --campaign results/reference/*-[0-9]

asks the same of the best row of each method and world at equal forgetting, which
`strength_evidence.py --probe` has attacked: one row per method and world. The correlations are
printed twice, since worlds differ: as they are, and with each world's mean over the methods taken
off, which puts noise of the other methods on one that hardly varies.

    python benchmarks/relearning_speed.py results/optimizers.jsonl --optimizers

asks whether the optimizer matters: two methods with retain text, AdamW, SGD and the signs of SGD,
the same quasi-random configurations of each, learning rates that make steps of about equal length.

    rho      Spearman's rank correlation inside each method, the mean over methods
    alone    how much of the ranks' variance inside methods a hyperparameter explains that the
             others do not (a regression of ranks with all of them, then without it)
    p        two-sided, from 10,000 permutations of the outcome inside each method
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import qmc, rankdata

from ray_unlearn.spec.attack_spec import AttackSpec
from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.method_registry import method_named
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.store.attack_file import RETRAINED
from ray_unlearn.store.row_score import Baselines
from ray_unlearn.store.status import open_study
from ray_unlearn.unlearn.attacks.measured_attacks import retrained_model
from ray_unlearn.unlearn.attacks.relearning import relearning_curve
from ray_unlearn.unlearn.attacks.victim import loss_on, other_victim, victim_of
from ray_unlearn.unlearn.evaluate import forget_nll
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.model import exact_retrain_sources
from ray_unlearn.unlearn.single_trial import Single
from ray_unlearn.unlearn.strength import trained_weights
from ray_unlearn.unlearn.target_strength import Calibrated, strength_for

METHODS = (
    "gradient_ascent", "ascent_kl_in_distribution", "ascent_descent_in_distribution",
    "npo_kl_in_distribution",
)  # fmt: skip
LEARNING_RATE, W_R, STEPS = (3e-4, 3e-3), (0.5, 8.0), (8, 32)
OPTIMIZERS = {"adamw": 1.0, "signsgd": 0.5, "sgd": 500.0}
"""What a learning rate of AdamW is multiplied by, so that a step is about as long: it moves each of
0.9 M weights by nearly its rate, SGD all of them together by its rate (gradients are clipped to
norm 1)."""
BATCH_SIZE = 4
HOW = AttackSpec(attacks=("relearn",), learnt=("forget",), updates=(5, 20))
LOOK = 20
KEPT = ("retain", "general")
SEARCHED = ("learning_rate", "w_r", "steps")
AXES = (*SEARCHED, "strength", "utility_loss")
PERMUTATIONS = 10_000
KEYS = ("method", "world")


def main() -> None:
    """Measure what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--study", type=Path, default=Path("studies/reference/world.yaml"))
    parser.add_argument("--configurations", type=int, default=24, help="of each method")
    parser.add_argument("--repeated", type=int, default=4, help="of these, run with two seeds")
    parser.add_argument("--part", type=int, default=0, help="of so many processes on one file")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--optimizers", action="store_true", help="compare these instead")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--campaign", type=Path, nargs="+", help="studies that were probed")
    arguments = parser.parse_args()
    if arguments.campaign:
        report_campaign(arguments.results, arguments.campaign)
        return
    if not arguments.report:
        lines = list(planned(arguments.configurations, arguments.repeated))
        if arguments.optimizers:
            lines = with_optimizers(lines)
        measure(arguments.study, arguments.results, lines[arguments.part :: arguments.parts])
    lines = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    report_optimizers(pd.DataFrame(lines)) if arguments.optimizers else report(pd.DataFrame(lines))


def measure(study: Path, results: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Append what the file lacks of these lines."""
    results.parent.mkdir(parents=True, exist_ok=True)
    known = set()
    if results.exists():
        known = {_key(json.loads(line)) for line in results.read_text().splitlines()}
    single = Single(load_study(study))
    baselines = single.baselines()
    with results.open("a") as file:
        for line in lines:
            if _key(line) not in known:
                found = line | measured(single, baselines, line)
                print(json.dumps(found), file=file, flush=True)


def planned(configurations: int, repeated: int) -> Iterator[dict[str, Any]]:
    """The baselines, then all methods with one configuration after another."""
    yield {"method": "vanilla", "number": -1, "seed": 0}
    yield {"method": RETRAINED, "number": -1, "seed": 0}
    points = qmc.Sobol(3, seed=0).random_base2(math.ceil(math.log2(configurations)))
    for number, point in enumerate(points[:configurations]):
        rate, w_r, steps = (
            float(low * (high / low) ** x)
            for x, (low, high) in zip(point, (LEARNING_RATE, W_R, STEPS), strict=True)
        )
        for seed in range(2 if number < repeated else 1):
            for method in METHODS:
                mixed = {"w_r": w_r} if method_named(method).mixed else {}
                line = {"method": method, "number": number, "seed": seed}
                yield line | {"learning_rate": rate, "steps": round(steps)} | mixed


def with_optimizers(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The baselines, and the configurations of mixed methods with each optimizer."""
    mixed = [line for line in lines if "w_r" in line and line["method"].startswith("ascent")]
    return [line for line in lines if line["number"] < 0] + [
        line | {"optimizer": name, "learning_rate": line["learning_rate"] * factor}
        for line in mixed
        for name, factor in OPTIMIZERS.items()
    ]


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["method"], line.get("optimizer"), line["number"], line["seed"]


def measured(single: Single, baselines: Baselines, line: dict[str, Any]) -> dict[str, Any]:
    """Strength, score and relearning curve of one line, or why there is none."""
    workspace, policy = single.workspace, single.workspace.policy
    if line["method"] == RETRAINED:
        source = exact_retrain_sources(single.spec.model)[RETRAINED]
        retrained = retrained_model(workspace, single.spec.model, source)
        return {
            "curve": curve_of(relearning_curve(other_victim(workspace, retrained), "forget", HOW))
        }
    if line["method"] == "vanilla":
        workspace.reset()
        victim = victim_of(workspace)
        kept = {name: loss_on(victim, workspace.data.evaluated(name))[0] for name in KEPT}
        return {"kept": kept, "curve": curve_of(relearning_curve(victim, "forget", HOW))}
    names = set(Hyperparameters.model_fields) & set(line)
    values = Hyperparameters(batch_size=BATCH_SIZE, **{name: line[name] for name in names})
    config = single.spec.trial_config(values, line["method"], line["seed"], single.context)
    *_, ended = unlearn(workspace, config.model_copy(update={"evaluate_at": ()}))
    assert isinstance(ended, Ended)
    if ended.status != "complete":
        return {"left_out": ended.status}
    trained = trained_weights(policy.parameters)

    def nll_at(strength: float) -> float:
        policy.mix(trained, strength)
        return forget_nll(workspace)

    found = strength_for(nll_at, forget_nll(workspace), baselines.forget_target)
    if not isinstance(found, Calibrated):
        return {"left_out": found.reason}
    policy.mix(trained, found.strength)
    victim = victim_of(workspace)
    kept = {name: loss_on(victim, workspace.data.evaluated(name))[0] for name in KEPT}
    curve = curve_of(relearning_curve(victim, "forget", HOW))
    return {"strength": found.strength, "kept": kept, "curve": curve}


def curve_of(found: dict[int, float]) -> dict[str, float]:
    """As JSON has it."""
    return {str(update): nll for update, nll in found.items()}


def report(lines: pd.DataFrame) -> None:
    """Print what was relearnt by method, and what decides it."""
    first = lines[lines["method"] == "vanilla"].iloc[0]
    vanilla = first["curve"]["0"]
    if "left_out" in lines:
        out = lines[lines["left_out"].notna()]
        print("left out:", out.groupby(["method", "left_out"]).size().to_dict())
        lines = lines[lines["left_out"].isna()]
    for look in sorted(map(int, lines.iloc[0]["curve"])):
        lines = lines.assign(
            **{f"undone_{look}": [_undone(c, look, vanilla) for c in lines["curve"]]}
        )
    lines["utility_loss"] = [
        sum(max(0.0, kept[name] - first["kept"][name]) for name in KEPT) / len(KEPT)
        if isinstance(kept, dict)
        else math.nan
        for kept in lines["kept"]
    ]
    looks = [f"undone_{look}" for look in HOW.updates]
    print(lines[lines["method"] == RETRAINED][looks].to_string())
    lines = lines[lines["number"] >= 0].assign(outcome=lines[f"undone_{LOOK}"])
    means = lines.groupby(["method", "number"], as_index=False)[[*AXES, *looks, "outcome"]].mean()
    counts = lines.groupby(["method", "number"]).size()
    print(f"{len(means)} configurations, {len(lines)} models")
    print(means.groupby("method")[[*looks, "utility_loss"]].describe(percentiles=[]).T.to_string())
    _variances(lines, counts)
    _correlations(means, AXES)


def report_optimizers(lines: pd.DataFrame) -> None:
    """Print what was relearnt by method and optimizer, and whether the latter matters."""
    first = lines[lines["method"] == "vanilla"].iloc[0]
    vanilla = first["curve"]["0"]
    asked = lines[lines["number"] >= 0]
    out = asked["left_out"].notna() if "left_out" in asked else pd.Series(False, asked.index)
    print("left out:", asked[out].groupby(["method", "optimizer"]).size().to_dict())
    kept = asked[~out]
    kept = kept.assign(outcome=[_undone(curve, LOOK, vanilla) for curve in kept["curve"]])
    by = kept.groupby(["method", "optimizer"])
    print(by[["outcome", "strength"]].agg(["count", "mean", "std"]).to_string())
    draws = np.random.default_rng(0)
    for method, own in kept.groupby("method"):
        values, names = own["outcome"].to_numpy(), own["optimizer"].to_numpy()
        found = _between(values, names)
        null = [_between(draws.permutation(values), names) for _ in range(PERMUTATIONS)]
        p = (1 + np.sum(np.array(null) >= found)) / (1 + PERMUTATIONS)
        print(f"{method}: optimizers explain {found:.0%} of the variance, p {p:.4f}")


def _between(values: NDArray[np.float64], names: NDArray[Any]) -> float:
    """Share of the variance that lies between groups."""
    means = pd.Series(values).groupby(names).transform("mean")
    return float(means.var(ddof=0) / values.var())


def report_campaign(probes: Path, studies: Sequence[Path]) -> None:
    """Print what decides how fast a campaign's best models relearn.

    Args:
        probes: what `strength_probes` wrote.
        studies: the probed studies, whose ledgers have the hyperparameters.
    """
    lines = [json.loads(line) for line in probes.read_text().splitlines()]
    names = ("learning_rate", "w_r", "steps")
    found = []
    for place in studies:
        own = [line for line in lines if line["world"] == place.name]
        vanilla = next(line for line in own if line["method"] == "vanilla")["relearning"]["0"]
        trials = open_study(place)[1].trials
        for line in own:
            if line["kind"] == "equal":
                config = trials[int(line["number"])].config
                used = method_named(line["method"]).hyperparameters
                values = {name: config[name] if name in used else math.nan for name in names}
                undone = _undone(line["relearning"], LOOK, vanilla)
                about = {name: line[name] for name in ("world", "method", "strength")}
                about |= {"seed": config["seed"], "score": line["score_reporting"]}
                found.append(values | about | {"outcome": undone})
    # Where the campaign grew, a world has the better row that was found later beside the first.
    frame = pd.DataFrame(found).sort_values("score").drop_duplicates([*KEYS])
    print(f"{len(frame)} models of {len(studies)} worlds")
    print(frame.groupby("method")[["outcome", "strength", "score"]].describe().T.to_string())
    methods, worlds = (frame.groupby(key)["outcome"].transform("mean") for key in KEYS)
    total = frame["outcome"].var()
    rest = frame["outcome"] - methods - worlds + frame["outcome"].mean()
    print(f"variance of the outcome: methods {methods.var() / total:.0%}, worlds "
          f"{worlds.var() / total:.0%}, the rest {rest.var() / total:.0%}")  # fmt: skip
    axes = ("learning_rate", "w_r", "strength", "score", "seed")
    print("as they are")
    _correlations(frame, axes)
    print("with each world's mean taken off")
    _correlations(frame.assign(outcome=frame["outcome"] - worlds), axes)


def _undone(curve: dict[str, float], look: int, vanilla: float) -> float:
    rise = curve["0"] - vanilla
    return (curve["0"] - curve[str(look)]) / rise if abs(rise) > 0.01 else math.nan


def _variances(lines: pd.DataFrame, counts: pd.Series) -> None:
    """SD of the outcome between methods, their configurations, and seeds of a configuration."""
    several = lines.set_index(["method", "number"]).loc[counts[counts > 1].index]["outcome"]
    seeds = several.groupby(level=[0, 1]).var().mean()
    own = lines.groupby(["method", "number"])["outcome"].mean()
    between = own.groupby(level=0).var().mean() - seeds / counts.mean()
    methods = own.groupby(level=0).mean().std()
    print(f"SD of undone after {LOOK}: methods {methods:.3f}, configurations of a method "
          f"{math.sqrt(max(0, between)):.3f}, seeds {math.sqrt(seeds):.3f}")  # fmt: skip


def _correlations(means: pd.DataFrame, axes: Sequence[str]) -> None:
    """Each hyperparameter by itself and beside the others, by method and over all."""
    draws = np.random.default_rng(0)
    print("rho with undone: by method; mean and p over all; alone and p")
    for axis in axes:
        known = means[means[axis].notna()]
        groups = [own for _, own in known.groupby("method") if len(own) > 3]
        ranks = [_centred(own[axis]) for own in groups]
        outcome = [_centred(own["outcome"]) for own in groups]
        each = [float(x @ y) for x, y in zip(ranks, outcome, strict=True)]
        null = [
            np.mean([float(x @ draws.permutation(y)) for x, y in zip(ranks, outcome, strict=True)])
            for _ in range(PERMUTATIONS)
        ]
        mean = float(np.mean(each))
        p = (1 + np.sum(np.abs(null) >= abs(mean))) / (1 + PERMUTATIONS)
        named = ", ".join(
            f"{own['method'].iloc[0]} {rho:+.2f} (n {len(own)})"
            for own, rho in zip(groups, each, strict=True)
        )
        print(f"{axis:14} {mean:+.2f} p {p:.4f} | {named}")
    mixed = means[means["w_r"].notna()]
    searched = [axis for axis in axes if axis in SEARCHED and mixed[axis].nunique() > 1]
    for others in (searched, [*searched, "strength"]):
        for axis in others:
            gain, p = _alone(mixed, axis, [one for one in others if one != axis], draws)
            print(f"{axis:14} beside {', '.join(o for o in others if o != axis)}: "
                  f"{gain:.2f} of the variance, p {p:.4f}")  # fmt: skip


def _centred(values: pd.Series) -> NDArray[np.float64]:
    """Ranks with mean 0 and length 1."""
    ranks = rankdata(values) - (len(values) + 1) / 2
    return ranks / np.linalg.norm(ranks)


def _alone(
    means: pd.DataFrame, axis: str, others: Sequence[str], draws: np.random.Generator
) -> tuple[float, float]:
    """What one hyperparameter explains beyond the others, and its p (Freedman and Lane 1983).

    In ranks inside each method; residuals of the regression on the others are permuted there.
    """
    groups = [own for _, own in means.groupby("method") if len(own) > len(others) + 2]
    if not groups:
        return math.nan, math.nan
    columns = [np.concatenate([_centred(own[name]) for own in groups]) for name in (*others, axis)]
    y = np.concatenate([_centred(own["outcome"]) for own in groups])
    rest = _left(np.stack(columns[:-1], axis=1), y)
    x = _left(np.stack(columns[:-1], axis=1), columns[-1])
    x /= np.linalg.norm(x)
    ends = np.cumsum([len(own) for own in groups])[:-1]
    found = float(x @ rest) ** 2
    null = [
        float(x @ np.concatenate([draws.permutation(part) for part in np.split(rest, ends)])) ** 2
        for _ in range(PERMUTATIONS)
    ]
    return found / float(y @ y), float((1 + np.sum(np.array(null) >= found)) / (1 + PERMUTATIONS))


def _left(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return y - x @ np.linalg.lstsq(x, y, rcond=None)[0]


if __name__ == "__main__":
    main()
