"""Bad study files are refused with file, field, value and remedy, before anything starts."""

import re
from pathlib import Path

import pytest
import yaml

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.space_file import load_search_space, packaged_spaces
from ray_unlearn.spec.strict import differences
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import EvaluationSpec, StudySpec
from ray_unlearn.spec.trial_config import TrialConfig

REPOSITORY = Path(__file__).parent.parent.parent
STUDIES = sorted((REPOSITORY / "studies").glob("*.yaml"))


def demo(tmp_path: Path, change) -> Path:
    content = yaml.safe_load((REPOSITORY / "studies/demo.yaml").read_text())
    content["spaces"] = str(REPOSITORY / "search_spaces")
    change(content)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def put(path: str, value: object):
    """A change that sets the key at a dotted path."""

    def change(content: dict) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            content = content.setdefault(parent, {})
        content[last] = value

    return change


BAD = {
    "unknown key": (put("modle", {}), r"modle: unknown key; did you mean 'model'"),
    "unknown nested key": (
        put("search.trials_per_metod", 3),
        r"search.trials_per_metod: unknown key; did you mean 'trials_per_method'",
    ),
    "unknown method": (
        put("methods", ["gradient_asent"]),
        r"unknown method 'gradient_asent'; did you mean 'gradient_ascent'",
    ),
    "method twice": (put("methods", ["gradient_ascent", "gradient_ascent"]), r"named twice"),
    "low > high": (
        put("space_overrides.learning_rate", {"type": "float", "low": 1e-4, "high": 1e-5}),
        r"learning_rate.*needs low < high, got low=0.0001, high=1e-05",
    ),
    "log from zero": (
        put(
            "space_overrides.learning_rate", {"type": "float", "low": 0, "high": 1, "scale": "log"}
        ),
        r"log scale needs low > 0",
    ),
    "unknown hyperparameter": (
        put("space_overrides.learning_rat", 1e-4),
        r"unknown hyperparameter 'learning_rat'; did you mean 'learning_rate'",
    ),
    "value out of range": (
        put("space_overrides.weight_decay", -1.0),
        r"weight_decay.*greater than or equal to 0, got -1.0",
    ),
    "grid outside range": (
        put(
            "space_overrides.learning_rate",
            {"type": "float", "low": 1e-4, "high": 1e-3, "grid": [1.0]},
        ),
        r"grid values must lie in",
    ),
    "grid without points": (
        lambda c: (
            put("search", {"sampler": "grid"})(c),
            put("space_overrides.learning_rate", {"type": "float", "low": 1e-4, "high": 1e-3})(c),
        ),
        r"needs `grid: \[values\]`",
    ),
    "free steps, decaying": (
        put("space_overrides.schedule", "cosine"),
        r"free steps need a constant schedule",
    ),
    "name leaves the folder": (put("name", "../x"), r"name: .*got '../x'"),
    "no trials": (put("search.trials_per_method", 0), r"trials_per_method: .*got 0"),
    "two evaluation rules": (
        put("evaluation.every", 5),
        r"exactly one of `every`, `at` and `count`",
    ),
    "two data sources": (
        put("data.splits", {"forget": {"path": "x"}}),
        r"exactly one of `source: demo:<domain>` and `splits`",
    ),
    "a model seed of the documents": (
        put("data.source", "demo:shakespeare#1"),
        r"write `demo:shakespeare` here, and the seed in `model.source` alone",
    ),
    "missing split": (
        put("data", {"domain": "x", "splits": {"retain": {"path": "x"}}}),
        r"`splits` lacks forget",
    ),
    "empty objective": (put("objective", {"forget_gap": 0}), r"doing nothing wins"),
    "pruning two objectives": (
        lambda c: (put("objective.pareto", True)(c), put("search.scheduler", {"type": "asha"})(c)),
        r"early stopping needs one objective",
    ),
    "grace beyond the end": (
        put("search.scheduler", {"type": "asha", "grace_updates": 80}),
        r"must lie below the most steps",
    ),
    "warm-up that a constant schedule cannot have": (
        lambda c: (
            put("space_overrides.schedule", {"type": "choice", "choices": ["constant", "cosine"]})(
                c
            ),
            put("space_overrides.steps", 9)(c),
            put("space_overrides.warmup_ratio", 0.1)(c),
        ),
        r"with `schedule: constant` the space can draw what is no trial",
    ),
    "conditions in a circle": (
        lambda c: (
            put(
                "space_overrides.schedule",
                {"type": "choice", "choices": ["linear", "cosine"], "when": {"steps": 3}},
            )(c),
            put(
                "space_overrides.steps",
                {"type": "choice", "choices": [3, 5], "when": {"schedule": "linear"}},
            )(c),
        ),
        r"`when` runs in a circle",
    ),
    "not a number": (put("search.seed", ".nan"), r"search.seed"),
    "whole numbers from a real range": (
        put("space_overrides.batch_size", {"type": "float", "low": 8, "high": 64}),
        r"batch_size: takes whole numbers only; use `type: int`",
    ),
    "true as a number": (
        put("space_overrides.batch_size", {"type": "choice", "choices": [True, 8]}),
        r"batch_size: true and false are no values of it",
    ),
    "one choice in two spellings": (
        put("space_overrides.learning_rate", {"type": "choice", "choices": ["1.0e-3", 0.001]}),
        r"learning_rate: choices must differ",
    ),
    "a part for what it does not tell": (
        lambda c: (put("evaluation.screen", 0.25)(c), put("evaluation.priv_leak", True)(c)),
        r"evaluation: screen: a row that is measured on a part has no `priv_leak`",
    ),
    "a part for a score of one metric": (
        lambda c: (
            put("evaluation.screen", 0.25)(c),
            put("objective", {"minimise": "general_kl"})(c),
        ),
        r"evaluation.screen: .* weighted score alone, and `objective.minimise` asks for more",
    ),
    "a part for constraints": (
        lambda c: (
            put("evaluation.screen", 0.25)(c),
            put("objective", {"subject_to": {"general_kl": 0.01}})(c),
        ),
        r"evaluation.screen: .* `objective.subject_to` asks for more; take one",
    ),
    "a part that is nearly all": (put("evaluation.screen", 0.95), r"screen: .*0.9"),
    "a condition for what has no default": (
        lambda c: (
            put("space_overrides.batch_size", {"type": "choice", "choices": [4, 8]})(c),
            put(
                "space_overrides.learning_rate",
                {"type": "float", "low": 1e-4, "high": 1e-3, "when": {"batch_size": 4}},
            )(c),
        ),
        r"learning_rate: has no default",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_study_is_refused_with_place_and_remedy(tmp_path: Path, name: str) -> None:
    change, message = BAD[name]
    path = demo(tmp_path, change)
    with pytest.raises(UserError, match=message) as caught:
        load_study(path)
    assert re.search(r"\.yaml: line \d+: ", str(caught.value)), "the file and the line"


def test_missing_study_file_gives_the_nearest_name(tmp_path: Path) -> None:
    demo(tmp_path, lambda content: None)
    with pytest.raises(UserError, match=r"stdy.yaml: no such file; did you mean 'study.yaml'"):
        load_study(tmp_path / "stdy.yaml")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(UserError, match=r"line 2: key 'name' is given twice"):
        load_study(path)


def test_broken_yaml_and_non_mappings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_study(path)
    path.write_text("- a")
    with pytest.raises(UserError, match="must hold a mapping"):
        load_study(path)


def test_yaml_traps_are_read_as_meant(tmp_path: Path) -> None:
    """`1e-6` without a dot is text to YAML; it is a number here."""
    path = demo(
        tmp_path,
        put(
            "space_overrides.learning_rate",
            {"type": "float", "low": "1e-6", "high": "1e-4", "scale": "log"},
        ),
    )
    parameter = load_study(path).spaces["gradient_ascent"].parameters["learning_rate"]
    assert parameter.low == 1e-6
    choice = {"type": "choice", "choices": ["1e-6", "1e-5"]}
    path = demo(tmp_path, put("space_overrides.learning_rate", choice))
    space = load_study(path).spaces["gradient_ascent"]
    # A choice that stays text is none of the values in the ledger: the sampler forgets its trials.
    assert space.parameters["learning_rate"].choices == (1e-6, 1e-5)


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("steps", {"type": "int", "low": 1, "high": 9}, "steps: they are free in the search space"),
        ("learning_rate", {"type": "float", "low": 1e-5, "high": 1e-3}, "no `scale`; set `scale: "),
        ("learning_rate", {"type": "float", "low": False, "high": True}, "are no numbers"),
        ("learning_rate", True, "true and false are no values of it"),
        ("learning_rate", {"type": "float", "low": 1, "high": 0.1}, "needs low < high"),
    ],
)
def test_an_override_is_never_another_space_in_silence(
    name: str, override: object, message: str, tmp_path: Path
) -> None:
    """The message names the study file, where the mistake is, before the search space's."""
    path = demo(tmp_path, put(f"space_overrides.{name}", override))
    with pytest.raises(UserError, match=message) as refused:
        load_study(path)
    assert re.match(rf"{path}: line \d+: space_overrides", str(refused.value))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_loads_and_survives_its_resolved_form(
    path: Path, tmp_path: Path
) -> None:
    spec = load_study(path)
    resolved = tmp_path / "study.yaml"
    resolved.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    again = load_study(resolved)
    assert again == spec
    assert again.results_digest() == spec.results_digest()


def test_there_is_a_search_space_for_every_method_and_no_other() -> None:
    assert {path.stem for path in packaged_spaces().glob("*.yaml")} == set(METHODS)
    for name in METHODS:
        assert load_search_space(packaged_spaces() / f"{name}.yaml").method == name


def test_operations_change_no_result(tmp_path: Path) -> None:
    path = demo(tmp_path, lambda content: None)
    one, two = load_study(path), load_study(path, {"lanes": 7})
    assert one.results_digest() == two.results_digest()
    assert two.operations.lanes == 7


def test_mixing_weights_reach_mixed_methods_only(tmp_path: Path) -> None:
    spec = load_study(demo(tmp_path, put("space_overrides.w_r", 2.5)))
    assert spec.spaces["ascent_kl_general"].resolve({"learning_rate": 1e-4}).w_r == 2.5
    assert "w_r" not in spec.spaces["gradient_ascent"].parameters


@pytest.mark.parametrize(
    ("rule", "steps", "expected"),
    [
        ({"every": 4}, 10, (4, 8, 10)),
        ({"at": (2, 5, 50)}, 10, (2, 5, 10)),
        ({"count": 3}, 8, (2, 4, 8)),
        ({"every": 20}, 3, (3,)),
    ],
)
def test_evaluated_updates(rule: dict, steps: int, expected: tuple[int, ...]) -> None:
    assert EvaluationSpec(**rule).updates(steps) == expected


def test_trial_id_depends_on_every_field_and_on_nothing_else() -> None:
    trial = TrialConfig(learning_rate=1e-3, steps=4, method="gradient_ascent", evaluate_at=(4,))
    assert (
        trial.id
        == TrialConfig(evaluate_at=(4,), method="gradient_ascent", steps=4, learning_rate=0.001).id
    )
    changes = {
        "learning_rate": 2e-3,
        "seed": 1,
        "context": "x",
        "method": "random_labels",
        "weight_decay": 0.1,
    }
    ids = {trial.model_copy(update={name: value}).id for name, value in changes.items()}
    assert len(ids | {trial.id}) == len(changes) + 1


def test_warm_up_in_one_way_only() -> None:
    with pytest.raises(ValueError, match="not both"):
        Hyperparameters(
            learning_rate=1, steps=9, schedule="cosine", warmup_steps=1, warmup_ratio=0.1
        )
    with pytest.raises(ValueError, match="use `warmup_steps`"):
        Hyperparameters(learning_rate=1, steps=9, warmup_ratio=0.1)
    assert (
        Hyperparameters(
            learning_rate=1, steps=100, schedule="cosine", warmup_ratio=0.03
        ).warmup_updates
        == 3
    )


def test_a_change_of_the_spec_is_shown_line_by_line() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "gone": None, "same": "x"}
    after = {"a": {"b": 2, "c": [1, 2]}, "new": True, "same": "x"}
    assert differences(before, after) == ["a.b: 1 -> 2", "new: null -> true"]
    assert differences(before, before) == []


def test_where_model_and_data_lie_decides_nothing_but_what_they_are_named_on_the_hub_does(
    tiny_study: StudySpec,
) -> None:
    """A study moves to another machine: paths change, and the digests of what lies there are
    checked apart."""
    moved = tiny_study.model_copy(
        update={"model": tiny_study.model.model_copy(update={"source": "/elsewhere"})}
    )
    splits = {
        n: s.model_copy(update={"path": f"/elsewhere/{n}"})
        for n, s in tiny_study.data.splits.items()
    }
    moved = moved.model_copy(update={"data": moved.data.model_copy(update={"splits": splits})})
    assert differences(tiny_study.decisive(), moved.decisive()) == []
    hub = tiny_study.model_copy(
        update={"model": tiny_study.model.model_copy(update={"source": "org/model"})}
    )
    assert differences(tiny_study.decisive(), hub.decisive()) == [
        'model.source: "a local folder" -> "org/model"'
    ]
    assert "learning_rate" in str(tiny_study.decisive()), (
        "the search spaces are part of what decides"
    )
