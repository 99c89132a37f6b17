"""The next study from claims. If these fail, a study searches where nothing was claimed, or can no
longer refute a claim."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_unlearn.cli.main import main
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import Guidelines
from ray_unlearn.spec.narrowing import narrowed
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec

REPOSITORY = Path(__file__).parent.parent.parent
ASCENT, MIXED = "gradient_ascent", "ascent_descent_general"
LR = {"type": "float", "low": 1e-6, "high": 1e-3, "scale": "log", "grid": [1e-6, 1e-5, 1e-4]}
W_R = {"type": "float", "low": 0.5, "high": 8.0, "scale": "log"}
STEPS = {"type": "int", "low": 1, "high": 80, "free": True}
BATCHES = {"type": "choice", "choices": [4, 8, 16]}


def study(search: dict[str, Any] | None = None, **parameters: Any) -> StudySpec:
    """Two methods, learning rate and free steps, and more as told; `w_r` for the mixed one."""
    given = {"learning_rate": LR, "steps": STEPS} | parameters
    spaces = {
        method: {"method": method, "parameters": given | ({"w_r": W_R} if method == MIXED else {})}
        for method in (ASCENT, MIXED)
    }
    return StudySpec.model_validate(
        {
            "name": "next",
            "model": {"source": "demo:shakespeare"},
            "data": {"source": "demo:shakespeare"},
            "methods": [ASCENT, MIXED],
            "spaces": spaces,
            "search": {"trials_per_method": 20} | (search or {}),
            "evaluation": {"every": 10},
        }
    )


def claim(
    param: str, region: dict[str, Any] | None, method: str | None = ASCENT, **changes: Any
) -> dict[str, Any]:
    """A claimed guideline; a region without a type is a log range."""
    if region is not None and "type" not in region:
        region = {"type": "float", "log": True} | region
    content = {
        "id": f"range/{method}/{param}",
        "kind": "range",
        "status": "claimed",
        "grade": "B",
        "scope": {"method": method},
        "param": param,
        "search_space": region,
        "evidence": {"n_trials": 100, "n_groups": 5, "n_seeds": 3},
    }
    return content | changes


def withheld(param: str) -> dict[str, Any]:
    return claim(
        param,
        None,
        status="withheld",
        grade=None,
        withheld_because=[{"kind": "trials", "text": "18 trials in the top share, 25 needed"}],
    )


def guidelines(*claims: dict[str, Any]) -> Guidelines:
    score = {
        "name": "score",
        "direction": "minimize",
        "tolerance": 0.1,
        "tolerance_source": "t",
        "checkpoint_rule": "c",
        "score_rule": "best_row",
    }
    return Guidelines.model_validate({"provenance": {}, "score": score, "guidelines": list(claims)})


def after(
    *claims: dict[str, Any], spec: StudySpec | None = None, domain: str = ""
) -> tuple[StudySpec, str]:
    found, notes = narrowed(spec or study(), guidelines(*claims), "g.json", domain)
    return found, "\n".join(notes)


def ends(
    spec: StudySpec, param: str = "learning_rate", method: str = ASCENT
) -> tuple[float, float]:
    parameter = spec.spaces[method].parameters[param]
    return parameter.low, parameter.high


def test_a_claimed_range_replaces_the_range_and_the_former_space_is_kept_as_the_full_one() -> None:
    before = study()
    found, said = after(claim("learning_rate", {"low": 1e-5, "high": 1e-4}))
    assert ends(found) == (1e-5, 1e-4)
    assert found.spaces[ASCENT].parameters["learning_rate"].grid == (1e-5, 1e-4)
    assert found.full_spaces == {ASCENT: before.spaces[ASCENT]}
    assert found.search.full_space_share == 0.2
    assert found.spaces[MIXED] == before.spaces[MIXED], "nothing was claimed for it"
    assert (
        "gradient_ascent, learning_rate: 1e-06 to 0.001 -> 1e-05 to 0.0001 "
        "(claim range/gradient_ascent/lea" in said
    )
    assert "ascent_descent_general: unchanged: nothing was claimed for it" in said
    assert "gradient_ascent: 4 of 20 trials stay in the study's own space" in said


def test_what_is_resolved_is_enough_to_resume(tmp_path: Path) -> None:
    found, _ = after(claim("learning_rate", {"low": 1e-5, "high": 1e-4}, warm_start=3e-5))
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False))
    assert load_study(path) == found


@pytest.mark.parametrize(
    ("region", "sides", "expected"),
    [
        # Wide: half of two decades is a factor 10. Narrow: half of a factor 4 is 2, so the least
        # factor 3.
        ({"low": 1e-5, "high": 1e-3}, {"high_is_boundary": True}, (1e-5, 1e-2)),
        ({"low": 1e-6, "high": 1e-4}, {"low_is_boundary": True}, (1e-7, 1e-4)),
        ({"low": 2.5e-4, "high": 1e-3}, {"high_is_boundary": True}, (2.5e-4, 3e-3)),
        # Both ends: the earlier search was within this study's range, so its ends go on.
        (
            {"low": 1e-5, "high": 1e-4},
            {"low_is_boundary": True, "high_is_boundary": True},
            (1e-5 / 10**0.5, 1e-4 * 10**0.5),
        ),
        # The user's bound is tighter than the earlier search's: it stands.
        ({"low": 1e-5, "high": 1e-2}, {"high_is_boundary": True}, (1e-5, 1e-3)),
    ],
)
def test_a_censored_side_goes_on_beyond_the_earlier_bound(
    region: dict[str, float], sides: dict[str, bool], expected: tuple[float, float]
) -> None:
    found, said = after(claim("learning_rate", region, **sides))
    assert ends(found) == pytest.approx(expected, rel=1e-12)
    assert ("widened" in said) == (region["high"] <= 1e-3)


@pytest.mark.parametrize(
    ("name", "parameter", "region", "sides", "expected"),
    [
        # Inclusive limits are reached, exclusive ones approached half way.
        ("weight_decay", (0.0, 0.4), (0.0, 0.2), "low", (0.0, 0.2)),
        ("adam_beta1", (0.2, 0.9), (0.5, 0.9), "high", (0.5, 0.95)),
        ("max_grad_norm", (0.5, 4.0), (0.5, 2.0), "low", (0.25, 2.0)),
    ],
)
def test_widening_stops_at_what_a_hyperparameter_can_be(
    name: str,
    parameter: tuple[float, float],
    region: tuple[float, float],
    sides: str,
    expected: tuple[float, float],
) -> None:
    spec = study(**{name: {"type": "float", "low": parameter[0], "high": parameter[1]}})
    content = {"type": "float", "low": region[0], "high": region[1]}
    found, _ = after(claim(name, content, **{f"{sides}_is_boundary": True}), spec=spec)
    assert ends(found, name) == pytest.approx(expected)


def test_a_claim_for_all_methods_applies_to_each_and_gives_way_to_one_for_the_method() -> None:
    general = claim("learning_rate", {"low": 1e-5, "high": 1e-4}, None)
    own = claim("learning_rate", {"low": 2e-5, "high": 5e-5}, MIXED, grade="scoped")
    found, _ = after(general, own)
    assert (ends(found), ends(found, method=MIXED)) == ((1e-5, 1e-4), (2e-5, 5e-5))


def test_choices_are_narrowed_and_conditions_that_can_hold_no_more_go() -> None:
    schedule = {"type": "choice", "choices": ["linear", "cosine"]}
    warmup = {"type": "float", "low": 0.01, "high": 0.1, "when": {"schedule": "cosine"}}
    spec = study(
        schedule=schedule,
        warmup_ratio=warmup,
        batch_size=BATCHES,
        steps={"type": "int", "low": 5, "high": 40},
    )
    claims = [
        claim("schedule", {"type": "choice", "choices": ["linear"]}),
        claim("batch_size", {"type": "choice", "choices": [32, 16, 8]}, warm_start=16),
    ]
    found, _ = after(*claims, spec=spec)
    parameters = found.spaces[ASCENT].parameters
    assert parameters["schedule"].choices == ("linear",)
    assert parameters["batch_size"].choices == (8, 16)
    assert "warmup_ratio" not in parameters
    assert found.full_spaces is not None
    assert "warmup_ratio" in found.full_spaces[ASCENT].parameters
    start = found.search.warm_start[ASCENT][0]
    assert (start["schedule"], start["batch_size"], start["steps"]) == ("linear", 16, 22)


def test_free_steps_keep_their_low_end_and_stay_above_the_grace_of_early_stopping() -> None:
    """Which rows count must not differ between the two spaces, and early rows cost nothing."""
    spec = study({"scheduler": {"type": "median", "grace_updates": 30}})
    found, _ = after(claim("steps", {"type": "int", "low": 12, "high": 48}), spec=spec)
    assert ends(found, "steps") == (1, 48)
    low, _ = after(claim("steps", {"type": "int", "low": 6, "high": 12}), spec=spec)
    assert ends(low, "steps") == (1, 31)


def test_the_first_trial_is_the_claimed_start_with_the_rest_at_its_middle() -> None:
    lr = claim("learning_rate", {"low": 1e-5, "high": 1e-3}, MIXED, warm_start=2e-4)
    found, said = after(lr)
    assert found.search.warm_start == {MIXED: ({"learning_rate": 2e-4, "w_r": pytest.approx(2.0)},)}
    assert "ascent_descent_general: begins with learning_rate 0.0002" in said
    default = claim(
        "w_r", None, MIXED, kind="leave_default", warm_start=1.0, id="leave_default/w_r"
    )
    found, _ = after(lr, default)
    assert found.search.warm_start[MIXED] == ({"learning_rate": 2e-4, "w_r": 1.0},)
    assert ends(found, "w_r", MIXED) == (0.5, 8.0), "leaving the default alone fixes nothing"
    region = claim("w_r", {"low": 1.0, "high": 2.0}, MIXED, warm_start=1.5)
    found, _ = after(lr, default, region)
    assert ends(found, "w_r", MIXED) == (1.0, 2.0), "a region says more than a default"
    _, said = after(claim("learning_rate", {"low": 1e-5, "high": 1e-4}, warm_start=5e-4))
    assert "the claimed start 0.0005 is outside the space" in said


@pytest.mark.parametrize("rule", ["stop_rule", None])
def test_claims_made_by_another_score_rule_narrow_nothing(rule: str | None) -> None:
    """Files without the field were made when guidelines knew the stopping rule alone."""
    content = guidelines(claim("learning_rate", {"low": 1e-5, "high": 1e-4})).model_dump()
    if rule is None:
        del content["score"]["score_rule"]
    else:
        content["score"]["score_rule"] = rule
    found = Guidelines.model_validate(content)
    with pytest.raises(
        UserError,
        match=r"g.json: its trials were scored by `stop_rule` \(score.score_rule\), those of this "
        r"study would be by `best_row`; set `objective.score_rule: stop_rule` in the study",
    ):
        narrowed(study(), found, "g.json")
    same = study()
    objective = same.objective.model_copy(update={"score_rule": "stop_rule"})
    after_all, _ = narrowed(same.model_copy(update={"objective": objective}), found, "g.json")
    assert ends(after_all) == (1e-5, 1e-4)


def test_claims_about_models_at_other_strengths_narrow_nothing() -> None:
    """At the forget target nearly every learning rate may be good, as trained few are."""
    content = guidelines(claim("learning_rate", {"low": 1e-5, "high": 1e-4})).model_dump()
    content["score"]["strength"] = "both"
    found = Guidelines.model_validate(content)
    with pytest.raises(
        UserError,
        match=r"`evaluation.strength: both` \(score.strength\), those of this study would be with "
        r"`trained`; set `evaluation.strength: both` in the study",
    ):
        narrowed(study(), found, "g.json")
    evaluation = study().evaluation.model_copy(update={"strength": "both"})
    after_all, _ = narrowed(study().model_copy(update={"evaluation": evaluation}), found, "g.json")
    assert ends(after_all) == (1e-5, 1e-4)


def test_a_single_claimed_value_becomes_a_small_range() -> None:
    """A tenth of three decades to either side."""
    found, _ = after(claim("learning_rate", {"low": 1e-4, "high": 1e-4}, kind="point"))
    assert ends(found) == pytest.approx((1e-4 / 10**0.3, 1e-4 * 10**0.3))


@pytest.mark.parametrize(
    ("given", "parameters", "reason"),
    [
        (
            claim("learning_rate", {"low": 1e-2, "high": 1e-1}),
            {},
            "lies outside the study's own 1e-06 to 0.001",
        ),
        (
            claim("batch_size", {"type": "int", "low": 4, "high": 8}),
            {"batch_size": BATCHES},
            "the study has choices",
        ),
        (
            claim("batch_size", {"type": "int", "low": 4, "high": 8}),
            {},
            "the study does not search it",
        ),
        (
            claim("batch_size", {"type": "int", "low": 4, "high": 8}),
            {"batch_size": {"type": "fixed", "value": 8}},
            "fixes it at 8",
        ),
        (
            claim("learning_rate", {"low": 1e-6, "high": 1e-3}),
            {},
            "is the study's own 1e-06 to 0.001",
        ),
    ],
)
def test_a_claim_that_cannot_be_applied_is_said_and_alone_refused(
    given: dict[str, Any], parameters: dict[str, Any], reason: str
) -> None:
    other = claim("learning_rate", {"low": 1e-5, "high": 1e-4}, MIXED)
    _, said = after(given, other, spec=study(**parameters))
    assert any("unchanged: " in line and reason in line for line in said.splitlines())
    with pytest.raises(UserError, match=r"g\.json: no claim narrows what this study searches"):
        after(given, spec=study(**parameters))


def test_nothing_claimed_is_refused_with_the_reason() -> None:
    with pytest.raises(
        UserError, match=r"1 not known.*18 trials in the top share.*nothing to narrow.*--space-from"
    ):
        after(withheld("learning_rate"))
    with pytest.raises(UserError, match="nothing to narrow"):
        after()


def test_a_likely_range_narrows_only_where_that_is_asked_for() -> None:
    region = {"type": "float", "low": 1e-5, "high": 1e-4, "log": True}
    reason = {"kind": "trials", "text": "20 trials"}
    likely = claim(
        "learning_rate",
        region,
        status="likely",
        grade=None,
        probability=0.8,
        withheld_because=[reason],
    )
    with pytest.raises(UserError, match="1 of 1 are likely: search there with --likely"):
        after(likely)
    spec, _ = narrowed(study(), guidelines(likely), "g.json", likely=True)
    found = spec.spaces["gradient_ascent"].parameters["learning_rate"]
    assert (found.low, found.high) == (1e-5, 1e-4)  # type: ignore[union-attr]
    both = guidelines(likely | {"id": "a"}, claim("learning_rate", region | {"high": 5e-5}))
    assert "claim range/" in " ".join(narrowed(study(), both, "g.json", likely=True)[1])


def test_a_file_of_version_1_can_still_be_read() -> None:
    (former,) = guidelines(withheld("learning_rate")).guidelines
    assert former.status == "not_known"
    assert former.why == "18 trials in the top share, 25 needed"


def test_a_grid_cannot_be_narrowed() -> None:
    spec = study()
    grid = spec.model_copy(update={"search": spec.search.model_copy(update={"sampler": "grid"})})
    with pytest.raises(UserError, match="`grid` runs given points"):
        after(claim("learning_rate", {"low": 1e-5, "high": 1e-4}), spec=grid)


def test_claims_of_another_domain_or_model_are_used_and_said_to_be_an_assumption() -> None:
    scope = {"method": ASCENT, "domains": ["LaTeX papers"], "models": ["demo:shakespeare"]}
    there = claim("learning_rate", {"low": 1e-5, "high": 1e-4}, scope=scope)
    found, said = after(there, domain="Shakespeare scenes")
    assert ends(found) == (1e-5, 1e-4)
    assert "other domains (LaTeX papers) than this study's (Shakespeare scenes)" in said
    assert "other models" not in said
    here = claim(
        "learning_rate",
        {"low": 2e-5, "high": 5e-5},
        scope=scope | {"domains": ["Shakespeare scenes"]},
        id="z",
    )
    found, _ = after(there, here, domain="Shakespeare scenes")
    assert ends(found) == (2e-5, 5e-5), "a claim of this domain comes first"


def test_narrowing_again_starts_from_the_full_space() -> None:
    once, _ = after(claim("learning_rate", {"low": 1e-5, "high": 1e-4}))
    twice, _ = after(claim("learning_rate", {"low": 1e-4, "high": 5e-4}), spec=once)
    assert ends(twice) == (1e-4, 5e-4)
    assert twice.full_spaces == once.full_spaces


START = {"learning_rate": 1e-5}


@pytest.mark.parametrize(
    ("search", "full", "message"),
    [
        ({"full_space_share": 0.2}, None, "need each other"),
        ({}, ASCENT, "need each other"),
        ({"full_space_share": 0.2}, "random_labels", "'random_labels' is no method of this study"),
        (
            {"warm_start": {ASCENT: [{"learning_rate": 1.0}]}},
            None,
            r"warm_start.gradient_ascent\[0\].*must lie in",
        ),
        ({"warm_start": {ASCENT: [{}]}}, None, r"`learning_rate` is missing"),
        ({"warm_start": {ASCENT: [{"learning_rat": 1e-5}]}}, None, "did you mean 'learning_rate'"),
        ({"warm_start": {"random_labels": [START]}}, None, "is no method of this study"),
        ({"points": {ASCENT: [START]}}, None, "`points` and `sampler: listed` need each other"),
        (
            {"sampler": "listed"},
            None,
            "`sampler: listed` runs all its points; remove `trials_per_method`",
        ),
        (
            {"sampler": "listed", "trials_per_method": None, "warm_start": {ASCENT: [START]}},
            None,
            "remove `full_space_share`",
        ),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(
    search: dict[str, Any], full: str | None, message: str
) -> None:
    content = study().model_dump(mode="json")
    content["search"] |= search
    if full:
        content["full_spaces"] = {full: content["spaces"][ASCENT] | {"method": full}}
    with pytest.raises(ValueError, match=message):
        StudySpec.model_validate(content)


def test_listed_points_must_differ_and_be_there_for_every_method() -> None:
    content = study().model_dump(mode="json")
    point = {"learning_rate": 1e-5}
    content["search"] = {"sampler": "listed", "points": {ASCENT: [point, point]}}
    with pytest.raises(
        ValueError, match=r"\[1\]: the same point as search.points.gradient_ascent\[0\]"
    ):
        StudySpec.model_validate(content)
    content["search"]["points"] = {ASCENT: [point]}
    with pytest.raises(ValueError, match=r"search\.points: none for ascent_descent_general"):
        StudySpec.model_validate(content)


def test_a_study_of_before_opens_as_it_was() -> None:
    """Its ledger knows nothing of full spaces, warm starts and listed points."""
    spec = study()
    content = spec.model_dump(mode="json")
    del content["full_spaces"]
    for name in ("full_space_share", "warm_start", "points"):
        del content["search"][name]
    assert StudySpec.model_validate(content) == spec


def test_the_published_schema_of_guidelines_is_current() -> None:
    published = json.loads((REPOSITORY / "docs/schema/guidelines.schema.json").read_text())
    assert published == Guidelines.model_json_schema(), (
        "run: ray-unlearn schema guidelines > docs/schema/..."
    )


def test_a_plan_can_be_made_of_what_guidelines_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said on stderr, counted on stdout: steps claimed up to 24 of 80, 16 of 20 trials there, 4 in
    full; the other method as it was."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study().model_dump(mode="json")))
    (tmp_path / "g.json").write_text(
        guidelines(claim("steps", {"type": "int", "low": 5, "high": 24})).as_json()
    )
    arguments = [
        "plan",
        str(tmp_path / "study.yaml"),
        "--space-from",
        str(tmp_path / "g.json"),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["ray-unlearn", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    plan = json.loads(said.out)
    assert (plan["trials"], plan["updates"]) == (40, 16 * 24 + 4 * 80 + 20 * 80)
    assert "gradient_ascent, steps: 1 to 80 -> 1 to 24" in said.err


def test_a_claim_about_a_product_says_why_it_narrows_nothing() -> None:
    _, said = after(
        claim("learning_rate", {"low": 1e-5, "high": 1e-4}),
        claim("learning_rate_x_steps", {"low": 1e-3, "high": 1e-2}),
    )
    assert "learning_rate_x_steps: unchanged: a product of two hyperparameters" in said
