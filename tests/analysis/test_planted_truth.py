"""The whole way from a trial table to guidelines, on tables whose truth is planted (ANALYSIS: how
it is tested).

Few repeats here; `slow` ones measure the rates that docs/analysis.md quotes.
"""

from dataclasses import replace

import pytest
from planted_curves import TARGET, planted_with_curves
from surfaces import RATE, TOLERANCE, WEIGHT, cliff, flat, planted, reach, valley

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.spec.guideline_file import Guidelines


def claims(table, seed=0):
    return [
        guideline for guideline in guidelines_of(find(table, seed)) if guideline.status == "claimed"
    ]


def by_id(table, seed=0):
    return {guideline.id: guideline for guideline in guidelines_of(find(table, seed))}


THREE = ("books", "code", "papers")


def test_null_data_gives_no_guideline():
    for seed in range(2):
        table = planted({"a": flat, "b": flat}, trials=60, groups=THREE, seed=seed)
        assert claims(table) == []


def test_a_real_optimum_is_found_and_a_null_hyperparameter_is_not():
    table = planted({"a": valley(best=-4.5)}, trials=60, groups=THREE)
    found = by_id(table)
    rate = found["range/a/learning_rate"]
    assert rate.status == "claimed"
    assert rate.grade == "scoped"  # three domains, but one trained model
    assert rate.text.endswith("Stated for books, code and papers alone, on one trained model (m).")
    # The truth: regret within 0.1 where |log10 lr + 4.5| <= 0.5 (0.1 / 0.3)^(1/2) = 0.289.
    low, high = 10 ** (-4.5 - 0.289), 10 ** (-4.5 + 0.289)
    assert rate.search_space.low < 10**-4.5 < rate.search_space.high
    assert rate.estimates["low_edge_90"][0] < low < rate.estimates["low_edge_90"][1]
    assert rate.estimates["high_edge_90"][0] < high < rate.estimates["high_edge_90"][1]
    weight = found["range/a/w_r"]
    assert weight.status in ("leave_alone", "likely")
    assert "w_r" in found["rank/a"].estimates["not_shown"]


def test_an_optimum_outside_what_was_searched_gets_no_finite_edge_there():
    table = planted({"a": valley(best=-2.6, width=1.2)}, trials=60, groups=THREE)
    guideline = by_id(table)["range/a/learning_rate"]
    assert guideline.status == "claimed"
    assert guideline.high_is_boundary
    assert guideline.estimates["high_edge_90"] is None
    assert "use at least" in guideline.text
    assert "high edge censored at the search bound 0.001" in guideline.text


def test_beyond_a_divergence_cliff_is_to_be_avoided():
    found = by_id(planted({"a": cliff(best=-4.5, edge=-3.8)}, trials=60, groups=THREE))
    avoid = found["avoid/a/learning_rate/high"]
    assert avoid.estimates["high"] is None
    assert 10**-4.5 < avoid.estimates["low"] < 10**-3.5
    assert avoid.estimates["infeasible_there"] > 0.5 * avoid.estimates["trials_there"] > 0
    assert "diverged" in avoid.text


def test_adaptive_trials_support_ranges_and_what_matters():
    """A regression does not need its inputs drawn at random."""
    found = by_id(planted({"a": valley()}, trials=40, drawn="adaptive"))
    assert found["range/a/learning_rate"].status == "claimed"
    assert found["rank/a"].status == "claimed"


def test_the_better_method_is_named_and_equal_ones_are_not_told_apart():
    deep, shallow = valley(), lambda logs, rng: valley()(logs, rng) + 0.3
    one_axis = {"trials": 40, "groups": THREE, "axes": (RATE,)}
    best = by_id(planted({"a": shallow, "b": deep, "c": shallow}, **one_axis))["method_choice/best"]
    assert best.status == "claimed"
    assert best.scope.method == "b"
    assert best.estimates["better_than"] == ["a", "c"]
    equal = by_id(planted({"a": deep, "b": deep}, **one_axis))["method_choice/best"]
    assert equal.status == "not_known"
    assert equal.scope.method is None
    assert "no method is shown" in equal.text


def test_twenty_trials_claim_a_range_that_the_surface_predicts():
    found = by_id(planted({"a": valley()}, trials=20))
    claim = found["range/a/learning_rate"]
    assert claim.status == "claimed"
    assert "left out of the fit" in claim.text
    assert claim.evidence.left_out.trials == 20
    assert claim.evidence.left_out.explained > 0.5
    rank = found["rank/a"]
    assert rank.status == "claimed"
    assert [line["param"] for line in rank.estimates["matters"]] == ["learning_rate"]
    assert rank.estimates["matters"][0]["p"] == claim.evidence.p_value
    assert "left out of the fit" not in rank.text


def test_trials_that_are_not_predicted_claim_nothing_however_many():
    """Scores that do not depend on anything searched."""
    found = by_id(planted({"a": flat}, trials=120))
    for name in ("range/a/learning_rate", "range/a/w_r", "budget/a"):
        assert found[name].status == "not_known"
        assert found[name].withheld_because[0].kind == "prediction"
        assert "of the variance of trials left out" in found[name].text


def test_optima_that_differ_between_domains_give_no_common_range():
    shift = dict(zip(THREE, (-1.0, 0.0, 1.0), strict=True)).__getitem__
    guideline = by_id(planted({"a": valley()}, trials=60, groups=THREE, shift=shift))[
        "range/a/learning_rate"
    ]
    assert guideline.status == "not_known"


def test_domains_that_agree_all_but_one_are_counted_and_the_one_is_named():
    domains = ("books", "code", "news", "papers")
    shift = dict(zip(domains, (0.0, 0.0, 1.2, 0.0), strict=True)).__getitem__
    guideline = by_id(planted({"a": valley()}, trials=40, groups=domains, shift=shift))[
        "range/a/learning_rate"
    ]
    assert guideline.status == "not_known"
    assert guideline.agreement.good_in == ("books", "code", "papers")
    assert guideline.agreement.not_in == ("news",)
    assert guideline.agreement.low < 10**-4.5 < guideline.agreement.high
    assert "is good in 3 of 4, not in news" in guideline.text


def test_a_shared_optimum_transfers_and_is_graded_by_the_number_of_domains():
    domains = [f"d{i}" for i in range(5)]
    table = planted({"a": valley()}, trials=60, groups=domains, models=lambda domain: ("m", "n"))
    guideline = by_id(table)["range/a/learning_rate"]
    assert guideline.grade == "B"
    assert "5 domains, 2 trained models" in guideline.text
    heldout = guideline.evidence.heldout
    assert heldout.better == len(heldout.groups) == 5
    assert heldout.trials_outside > heldout.trials_inside
    assert heldout.regret < heldout.regret_full_space
    assert "better in 5 of 5" in guideline.text


@pytest.mark.parametrize(
    ("models", "grade", "words"),
    [
        (lambda domain: ("llama",), "scoped", "on one trained model (llama)."),
        (lambda domain: (f"llama-{domain}",), "scoped", "on one trained model each."),
        (lambda domain: ("",), "scoped", ": the table does not say which model it was."),
        (lambda domain: (f"{domain}#1", f"{domain}#2"), "C", "3 domains, 2 trained models"),
    ],
)
def test_many_domains_on_one_trained_model_are_stated_for_it_alone(models, grade, words):
    """A user of another model would rely on a grade that one model gave."""
    methods = {"a": valley(), "b": lambda logs, rng: valley()(logs, rng) + 0.3}
    found = claims(planted(methods, trials=84, groups=THREE, axes=(RATE,), models=models))
    assert {"range/a/learning_rate", "method_choice/best"} <= {claim.id for claim in found}
    assert {claim.grade for claim in found} == {grade}
    assert all(words in claim.text for claim in found)


def test_models_of_three_domains_are_no_more_than_three_independent_groups():
    """Nine models of three domains would else hold out nine, each with its domain left in."""
    mixed, ascent = "ascent_descent_in_distribution", "gradient_ascent"
    table = planted(
        {ascent: valley(), mixed: lambda logs, rng: valley()(logs, rng) + 0.3},
        trials=60,
        groups=THREE,
        axes=(RATE,),
        models=lambda domain: [f"{domain}#{seed}" for seed in range(3)],
    )
    found = find(table)
    evidence = found.methods[ascent].evidence
    assert (len(table.groups), evidence.n_groups, evidence.n_models) == (9, 3, 3)
    assert {one.group for one in found.methods[ascent].heldout} <= set(THREE)
    assert found.pairs.differences[0].over_groups is None
    assert found.pairs.differences[0].scope == found.headline.scope == "these domains only"
    headline = by_id(table)[f"method_choice/{mixed}/{ascent}"]
    assert f"same sign in {headline.estimates['same_sign']} of 9" in headline.text  # not "of 3"


def test_several_models_of_one_domain_are_what_a_claim_says_it_was_seen_on():
    models = [f"llama#{seed}" for seed in range(4)]
    table = planted({"a": valley()}, trials=160, axes=(RATE,), models=lambda domain: models)
    rate = by_id(table)["range/a/learning_rate"]
    assert rate.grade == "C"
    assert "1 domain, 4 trained models" in rate.text
    assert "Seen in each of these trained models" in rate.text


def test_order_of_rows_and_columns_and_names_change_nothing():
    table = planted({"a": valley(), "b": flat}, trials=40, groups=THREE)
    mixed = table.trials.sample(frac=1, random_state=1)[sorted(table.trials.columns)].reset_index(
        drop=True
    )
    other = type(table)(mixed, table.rows.sample(frac=1, random_state=2), table.axes, table.score)

    def bytes_of(some):
        return Guidelines(
            provenance={}, score=some.score, guidelines=guidelines_of(find(some))
        ).as_json()

    assert bytes_of(table) == bytes_of(other)


@pytest.mark.slow
def test_rate_of_false_claims_on_null_data():
    """At most 7.5 % of studies of pure noise may claim anything; `benchmarks/planted_truth.py`
    measures it with more."""
    repeats = 20
    wrong = sum(
        bool(claims(planted({"a": flat}, trials=100, seed=seed))) for seed in range(repeats)
    )
    assert wrong <= 4, "more than four of twenty have a probability of 2 % at a rate of 7.5 %"


@pytest.mark.slow
def test_power_and_coverage_on_a_planted_valley():
    """One real and one null hyperparameter: the real one is claimed, with edges that cover the
    truth, the null one not."""
    repeats, claimed, null, covered, edges = 12, 0, 0, 0, 0
    for seed in range(repeats):
        found = by_id(planted({"a": valley()}, trials=200, axes=(RATE, WEIGHT), seed=seed))
        rate = found["range/a/learning_rate"]
        claimed += rate.status == "claimed"
        null += found["range/a/w_r"].status == "claimed"
        for side, truth in (("low", 10 ** (-4.5 - reach())), ("high", 10 ** (-4.5 + reach()))):
            interval = rate.estimates[f"{side}_edge_90"]
            if interval is not None:
                edges += 1
                covered += interval[0] <= truth <= interval[1]
    assert claimed >= 11
    assert null <= 2
    assert covered >= 0.8 * edges


def test_twenty_four_trials_say_how_rate_and_steps_trade_off_and_twenty_are_asked_for():
    few, enough = (by_id(planted_with_curves(n, 3)) for n in (14, 24))
    claim = enough["interaction/a/learning_rate"]
    assert claim.status == "claimed"
    low, high = claim.estimates["kappa_90"]
    assert low <= 1 <= high
    for name in ("interaction/a/learning_rate", "stop_rule/a"):
        (reason,) = few[name].withheld_because
        assert (reason.kind, reason.trials_needed) == ("trials", 6)


def test_a_stopping_rule_is_claimed_at_sixty_trials_and_only_where_a_ruined_model_has_a_price():
    table = planted_with_curves(60, 3, seed_sd=0.05)
    known = by_id(replace(table, nothing={"books": TARGET}))["stop_rule/a"]
    assert known.status == "claimed"
    assert known.estimates["regret_90"][1] <= TOLERANCE
    unknown = by_id(table)["stop_rule/a"]
    assert unknown.status == "not_known"
    assert "what doing nothing scores is not known" in unknown.text
