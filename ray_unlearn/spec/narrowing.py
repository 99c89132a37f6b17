"""The next study's search space from claimed guidelines.

A claimed region replaces a parameter's range (see `spec.narrowed_range`), and the claimed best
values are the first trial. `FULL_SPACE_FRACTION` of each narrowed method's trials stay in the
study's own space, so that the study can refute the claims.
"""

from collections.abc import Iterator
from typing import Any

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import Guideline, Guidelines
from ray_unlearn.spec.listed_points import middle_of, sampled_parameters
from ray_unlearn.spec.narrowed_range import ClaimNotApplied, narrowed_parameter
from ray_unlearn.spec.search_space import Choice, FloatRange, IntRange, Scalar, SearchSpace
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_spec import StudySpec, public_name

FULL_SPACE_FRACTION = 0.2
"""Fraction of trials in the full space: enough to refute a claim, few enough to profit from it."""


def narrowed(
    spec: StudySpec,
    guidelines: Guidelines,
    where: str,
    domain: str = "",
    likely: bool = False,
) -> tuple[StudySpec, list[str]]:
    """Narrow a study's spaces to what guidelines claim.

    Args:
        spec: the study as its file says. If it was narrowed before, its full spaces are narrowed.
        guidelines: claims, withheld ones among them.
        where: the guidelines' file, for messages.
        domain: name of the study's domain in tables, where `spec.data` gives none.
        likely: narrow to likely ranges too, where none is claimed.

    Returns:
        `spec` with narrowed spaces, its former spaces as full ones, and a warm start; and notes on
        what was done.

    Raises:
        UserError: the claims rest on another score rule or strength or other weights than the
            study's, nothing was claimed about what this study searches, or its sampler runs given
            points.
    """
    if spec.search.sampler in ("grid", "listed"):
        raise UserError(
            f"search.sampler: `{spec.search.sampler}` runs given points, so {where} cannot narrow "
            "it; use `tpe` or `qmc`"
        )
    _check_score_rule(spec, guidelines, where)
    _check_strength(spec, guidelines, where)
    _check_objective(spec, guidelines, where)
    _check_weights(spec, guidelines, where)
    wanted = ("claimed", "likely") if likely else ("claimed",)
    claims = [
        claim
        for claim in guidelines.guidelines
        if claim.status in wanted and claim.kind == "range" and claim.param is not None
    ]
    if not claims:
        raise UserError(_nothing_claimed(guidelines, where, likely))
    claims = [claim for claim in claims if claim.scope.method in (None, *spec.methods)]
    own = spec.spaces | (spec.full_spaces or {})
    notes = list(_transfers(spec, claims, domain))
    spaces: dict[str, SearchSpace] = {}
    warm: dict[str, list[dict[str, Scalar]]] = {}
    for method in spec.methods:
        chosen = _best_claims(claims, method, spec.model.source, domain or spec.data.domain)
        spaces[method] = _narrowed_space(
            own[method], chosen, spec.search.scheduler.grace_updates, notes
        )
        starts = {
            name: claim.warm_start for name, claim in chosen.items() if claim.warm_start is not None
        }
        if point := _warm_point(spaces[method], starts, notes):
            warm[method] = [point]
    changed = [method for method in spec.methods if spaces[method] != own[method]]
    if not changed and not warm:
        said = "\n  ".join(notes)
        raise UserError(
            f"{where}: no claim narrows what this study searches; leave out --space-from:\n  {said}"
        )
    share = FULL_SPACE_FRACTION if changed else 0.0
    search = spec.search.model_dump(mode="json") | {"full_space_share": share, "warm_start": warm}
    content = spec.model_dump(mode="json") | {
        "spaces": {method: space.model_dump(mode="json") for method, space in spaces.items()},
        "full_spaces": {method: own[method].model_dump(mode="json") for method in changed} or None,
        "search": search,
    }
    result = validated(StudySpec, content, f"{where}: narrowed study")
    return result, notes + list(_shares(result, changed))


def _check_score_rule(spec: StudySpec, guidelines: Guidelines, where: str) -> None:
    """Refuse claims by another score rule: its best rows are at other learning rates."""
    ours, theirs = spec.objective.score_rule, guidelines.score.score_rule
    if ours != theirs:
        raise UserError(
            f"{where}: its trials were scored by `{theirs}` (score.score_rule), those of this "
            "study "
            f"would be by `{ours}`; set `objective.score_rule: {theirs}` in the study, or make the "
            f"guidelines again from studies scored by `{ours}` (`ray-unlearn report`)"
        )


def _check_strength(spec: StudySpec, guidelines: Guidelines, where: str) -> None:
    """Refuse claims about other models: at the target most learning rates are good."""
    ours, theirs = spec.evaluation.strength, guidelines.score.strength
    if ours != theirs:
        raise UserError(
            f"{where}: its trials were scored with `evaluation.strength: {theirs}` "
            f"(score.strength), those of this study would be with `{ours}`; set "
            f"`evaluation.strength: {theirs}` in the study, or make the guidelines again from "
            f"studies that ran with `{ours}`"
        )


def _check_objective(spec: StudySpec, guidelines: Guidelines, where: str) -> None:
    """Refuse claims about another score, or about trials within other constraints."""
    ours, theirs = spec.objective.beyond_weights(), guidelines.score.objective or ""
    if ours != theirs:
        weighted = "the weighted sum without constraints"
        raise UserError(
            f"{where}: its trials were scored by `{theirs or weighted}` (score.objective), those "
            f"of this study would be by `{ours or weighted}`; give both the same `objective`"
        )


def _check_weights(spec: StudySpec, guidelines: Guidelines, where: str) -> None:
    """Refuse claims about a score of other weights: other configurations are good by it."""
    ours, theirs = spec.objective.weights, guidelines.score.weights
    if theirs is not None and ours != theirs:
        raise UserError(
            f"{where}: its trials were scored with {theirs.in_words()} (score.weights), those of "
            f"this study would be with {ours.in_words()}; set `objective: "
            f"{{{theirs.in_yaml()}}}` in the study, or make the guidelines again with "
            f"`ray-unlearn report ... --objective {ours.as_option()}`"
        )


def _nothing_claimed(guidelines: Guidelines, where: str, likely: bool) -> str:
    ranges = [g for g in guidelines.guidelines if g.kind == "range"]
    ready = sum(g.status == "likely" for g in ranges)
    if ready and not likely:
        return (
            f"{where}: no good region was claimed, {ready} of {len(ranges)} are likely: search "
            "there with --likely, or leave out --space-from"
        )
    first = next((g.withheld_because[0].text for g in ranges if g.withheld_because), "")
    reason = f" (the first because: {first})" if first else ""
    return (
        f"{where}: no good region was claimed, {len(ranges)} not known{reason}: there is nothing "
        "to narrow; give the study more "
        "trials, seeds or domains (`ray-unlearn resume DIR --trials N`), or leave out --space-from"
    )


def _transfers(spec: StudySpec, claims: list[Guideline], domain: str) -> Iterator[str]:
    """Notes on claims that are used beyond their scope."""
    mine = domain or spec.data.domain
    model = public_name(spec.model.source)
    for what, here, scopes in (
        ("domain", mine, [claim.scope.domains for claim in claims]),
        ("model", model, [claim.scope.models for claim in claims]),
    ):
        known = sorted({name for scope in scopes for name in scope})
        outside = [scope for scope in scopes if scope and here not in scope]
        if here and outside:
            yield (
                f"{len(outside)} of {len(claims)} claims were made for other {what}s "
                f"({', '.join(known)}) than this study's "
                f"({here}): that they hold here is your assumption"
            )


def _best_claims(
    claims: list[Guideline], method: str, model: str, domain: str
) -> dict[str, Guideline]:
    """For each hyperparameter, the claim that is most specific to this method, domain and model.

    Among equally specific claims the better grade wins (a likely range has none), then a claim with
    a region.
    """
    grades = ("A", "B", "C", "scoped")

    def rank(claim: Guideline) -> tuple[Any, ...]:
        scope = claim.scope
        elsewhere = bool(scope.domains and domain not in scope.domains)
        other = bool(scope.models and public_name(model) not in scope.models)
        return (
            scope.method is None,
            elsewhere,
            other,
            len(grades) if claim.grade is None else grades.index(claim.grade),
            claim.search_space is None,
            claim.id,
        )

    found: dict[str, Guideline] = {}
    for claim in sorted((c for c in claims if c.scope.method in (method, None)), key=rank):
        assert claim.param is not None
        found.setdefault(claim.param, claim)
    return found


def _narrowed_space(
    space: SearchSpace, claims: dict[str, Guideline], grace: int, notes: list[str]
) -> SearchSpace:
    parameters = dict(space.parameters)
    for name, claim in claims.items():
        place = f"{space.method}, {name}"
        try:
            parameters[name], said = narrowed_parameter(
                space.method, name, parameters.get(name), claim, grace
            )
            notes.append(f"{place}: {said} (claim {claim.id})")
        except ClaimNotApplied as reason:
            notes.append(f"{place}: unchanged: {reason}")
    if not claims:
        notes.append(f"{space.method}: unchanged: nothing was claimed for it")
    return SearchSpace(method=space.method, parameters=_possible(parameters))


def _possible(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters whose conditions can still hold after choices were narrowed away."""
    while True:
        kept = {
            name: parameter
            for name, parameter in parameters.items()
            if all(
                isinstance(other := parameters.get(key), Choice) and value in other.choices
                for key, value in parameter.when.items()
            )
        }
        if len(kept) == len(parameters):
            return kept
        parameters = kept


def _warm_point(
    space: SearchSpace, values: dict[str, bool | str | float], notes: list[str]
) -> dict[str, Scalar]:
    """The claimed values, and the middle of every other range; empty without a usable claim."""
    point: dict[str, Scalar] = {}
    used = []
    for name, parameter in sampled_parameters(space).items():
        if any(point.get(other) != value for other, value in parameter.when.items()):
            continue
        value = values.get(name)
        inside = None if value is None else _inside(parameter, value)
        if inside is not None:
            used.append(f"{name} {inside:.3g}" if isinstance(inside, float) else f"{name} {inside}")
        elif value is not None:
            notes.append(
                f"{space.method}, {name}: the claimed start {value} is outside the space; its "
                "middle is used"
            )
        point[name] = middle_of(parameter) if inside is None else inside
    if not used:
        return {}
    notes.append(f"{space.method}: begins with {', '.join(used)}")
    return point


def _inside(parameter: FloatRange | IntRange | Choice, value: Scalar) -> Scalar | None:
    """The value in the parameter's own type, or None if it is not one of its values."""
    if isinstance(parameter, Choice):
        return next((choice for choice in parameter.choices if choice == value), None)
    if isinstance(value, (str, bool)) or not parameter.low <= value <= parameter.high:
        return None
    return round(value) if isinstance(parameter, IntRange) else float(value)


def _shares(spec: StudySpec, changed: list[str]) -> Iterator[str]:
    trials = spec.search.trials_per_method
    assert trials is not None
    for method in changed:
        outside = spec.search.full_space_trials(method, trials)
        yield f"{method}: {outside} of {trials} trials stay in the study's own space" + (
            ""
            if outside
            else "; with so few the claim cannot be refuted: raise `search.trials_per_method`"
        )
