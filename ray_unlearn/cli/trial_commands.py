"""Commands that run one trial in this process: unlearn, export."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ray_unlearn.cli.options import Location
from ray_unlearn.cli.show import Json, print_json, print_table, say
from ray_unlearn.spec.bounds import LARGEST_SEED
from ray_unlearn.spec.errors import EXIT_FAILED_TRIALS, UserError
from ray_unlearn.spec.method_registry import check_uses, method_named
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import Row, at_strength
from ray_unlearn.store.target import forgetting_warnings

SHOWN = (
    "update", "strength", "forget_ppl", "approximate_ppl_reporting", "retain_ppl_reporting",
    "general_ppl_reporting", "mia_loss_auc_reporting", "score_selection", "score_reporting",
)  # fmt: skip


def unlearn_command(
    study: Annotated[
        Path, typer.Argument(help="study file: model, data, evaluation", show_default=False)
    ],
    method: Annotated[str, typer.Option(help="unlearning method", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="hyperparameter=value, several times", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED)] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="save the unlearned model here")
    ] = None,
    json: Json = False,
) -> None:
    """Run one trial, without a search and without Ray, and show its evaluation rows."""
    spec = load_study(study)
    values: dict[str, Any] = dict(_setting(text) for text in settings or [])
    chosen = method_named(method)
    check_uses(chosen, values, "--set")
    hyperparameters = validated(chosen.values, _defaults(spec, method) | values, "--set")
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: exists and is not empty; name a new folder")
    # What can be refused without torch is refused before it is imported.
    from ray_unlearn.unlearn.admission import admission
    from ray_unlearn.unlearn.single_trial import Single

    admitted = admission(spec, measures=False)
    admitted.refuse()
    for finding in admitted.worth_saying:
        say(f"{finding.state}: {finding}")
    single = Single(spec, say)
    config = spec.trial_config(hyperparameters, method, seed, single.context)
    _run_and_show(single, config, output, json)


def export_command(
    location: Location,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="model folder, or rows.csv / rows.parquet")
    ],
    trial: Annotated[
        str | None, typer.Option(help="trial id, number, or `best`; makes the model of that trial")
    ] = None,
    update: Annotated[
        int | None, typer.Option(min=1, help="default: that of the row that scores the trial")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="a in W_0 + a (W_t - W_0), up to 2; default: the best row's, or 1 with --update"
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(help="merged: whole weights; adapter: LoRA adapters alone (`model.lora`)"),
    ] = "merged",
    anyway: Annotated[
        bool, typer.Option("--anyway", help="also a model that the report calls not feasible")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="upload the model to the Hugging Face hub, as a private repository",
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="let everybody see what --push uploads")
    ] = False,
) -> None:
    """Write the result table, or the model of a trial.

    If the trial's best row is at another strength than 1, the model is the mixed one.

    The best trial's weights were kept; other models are made by running the trial again (the same,
    bit for bit, on one CPU worker). What was written is read again, measured, and described in a
    model card."""
    from ray_unlearn.api import Study

    Study(location).export(
        output,
        trial,
        update=update,
        strength=strength,
        form=form,
        anyway=anyway,
        push=push,
        public=public,
        say=say,
    )


def _run_and_show(single: Any, config: TrialConfig, output: Path | None, json: bool) -> None:
    say("measuring the baselines")
    baselines = single.baselines()
    for warning in forgetting_warnings(baselines.vanilla):
        say(f"warning: {warning}")
    rows: list[Row] = []

    def show(row: Row) -> None:
        rows.append(row)
        say(
            f"update {row['update']}/{config.steps}{at_strength(row)}: "
            f"forget ppl {row['forget_ppl']:.1f}, score {row['score_selection']:.3f}"
        )

    calibrates = single.spec.evaluation.strength != "trained"
    ended = single.run(config, baselines, show, calibrates)
    if json:
        print_json(
            {
                "trial": config.model_dump(mode="json"),
                "id": config.id,
                "rows": rows,
                "status": ended.status,
            }
        )
    else:
        lines = [
            tuple(row[name] for name in SHOWN)
            for row in ({"update": 0, "strength": 0.0, **_vanilla(single, baselines)}, *rows)
        ]
        print_table(
            [name.replace("_", " ") for name in SHOWN],
            lines,
            title=f"{config.method}, trial {config.id}",
        )
        say(f"{ended.status}{': ' + ended.reason if ended.reason else ''}")
    if ended.status != "complete":
        raise typer.Exit(EXIT_FAILED_TRIALS)
    if output is not None:
        single.save(output)
        say(f"model: {output}")


def _vanilla(single: Any, baselines: Any) -> Row:
    from ray_unlearn.store.row_score import scored

    weights = single.spec.objective.weights
    return scored(baselines.vanilla, baselines, weights, single.objective)


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UserError(f"--set {text!r}: must be hyperparameter=value, such as learning_rate=3e-4")
    try:
        return name.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        what = " ".join(str(error).split())
        raise UserError(f"--set {text!r}: the value cannot be read: {what}") from None


def _defaults(spec: StudySpec, method: str) -> dict[str, Any]:
    """The study's fixed values for the method; the user gives the values that it searches."""
    definition = method_named(method)
    space = spec.spaces.get(definition.name)
    if space is None:
        return {}
    values = {name: p.value for name, p in space.parameters.items() if p.type == "fixed"}
    if space.free_steps:
        values["steps"] = space.resolve({n: _low(p) for n, p in space.sampled().items()}).steps
    return values


def _low(parameter: Any) -> Any:
    return parameter.choices[0] if parameter.type == "choice" else parameter.low
