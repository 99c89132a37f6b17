"""All attacks on one model, and side by side on those it is compared with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ray_unlearn.spec.attack_spec import AttackSpec
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.attack_file import RETRAINED, TRIAL, VANILLA, AttackOutcome
from ray_unlearn.unlearn.attacks.prompting import Prompted, paraphrased, with_prefix
from ray_unlearn.unlearn.attacks.quantising import rounded_nll
from ray_unlearn.unlearn.attacks.relearning import relearning_curve
from ray_unlearn.unlearn.attacks.victim import Victim, loss_on, other_victim, victim_of
from ray_unlearn.unlearn.model import exact_retrain_sources, load_model
from ray_unlearn.unlearn.workspace import Workspace

Say = Callable[[str], None]
SHARES = {0.1: "a tenth", 0.25: "a quarter", 0.5: "half"}


@dataclass(frozen=True)
class AttackFound:
    """What one attack in one setting did to one model."""

    attack: str
    setting: str
    text: str
    amount: float
    before: float
    nll: float
    accuracy: float | None = None


class Attacker:
    """The attacks of one study, which are the same on every model.

    The models that trials are compared with are attacked once, when they are first needed.

    Args:
        workspace: the study's data, and its policy.
        spec: the study.
        how: the attacks.
        say: called with each line of progress.
    """

    def __init__(self, workspace: Workspace, spec: StudySpec, how: AttackSpec, say: Say) -> None:
        self._workspace = workspace
        self._spec = spec
        self._how = how
        self._say = say
        self._compared: dict[str, list[AttackFound]] = {}
        self._prompts = tuple(self._prompted())

    def attack_policy(self) -> tuple[AttackOutcome, ...]:
        """Attack the policy as it is now, beside vanilla and exactly retrained model.

        The policy is the vanilla model afterwards where those were not attacked before.

        Raises:
            UserError: nothing is left to learn or to measure, or the retrained model has another
                shape.
        """
        found = {TRIAL: self._all("the trial's model", victim_of(self._workspace))}
        if not self._compared:
            self._compared = self._compare()
        return side_by_side(found | self._compared)

    def _compare(self) -> dict[str, list[AttackFound]]:
        self._workspace.reset()
        found = {VANILLA: self._all("the vanilla model", victim_of(self._workspace))}
        source = exact_retrain_sources(self._spec.model).get(RETRAINED)
        if source is not None:
            model = retrained_model(self._workspace, self._spec.model, source)
            victim = other_victim(self._workspace, model)
            found[RETRAINED] = self._all("the exactly retrained model", victim)
        return found

    def _all(self, name: str, victim: Victim) -> list[AttackFound]:
        makers = {"relearn": self._relearn, "quantise": self._quantise, "prompts": self._prompt}
        found: list[AttackFound] = []
        for attack in self._how.attacks:
            self._say(f"{attack}: {name}")
            found += makers[attack](victim)
        return found

    def _relearn(self, victim: Victim) -> Iterator[AttackFound]:
        for text in self._how.learnt:
            curve = relearning_curve(victim, text, self._how)
            for update in sorted(set(self._how.updates)):
                setting = f"{update} updates on {_learnt(text, self._how.share)}"
                yield AttackFound("relearn", setting, text, update, curve[0], curve[update])

    def _quantise(self, victim: Victim) -> Iterator[AttackFound]:
        before, _ = loss_on(victim, self._workspace.data.splits["forget"])
        for bits in self._how.bits:
            setting = f"{bits} bits, groups of {self._how.group_size}"
            nll = rounded_nll(victim, bits, self._how.group_size)
            yield AttackFound("quantise", setting, "", bits, before, nll)

    def _prompt(self, victim: Victim) -> Iterator[AttackFound]:
        for one in self._prompts:
            before, _ = loss_on(victim, one.plain)
            nll, accuracy = loss_on(victim, one.attacked)
            yield AttackFound("prompts", one.setting, one.text, 0.0, before, nll, accuracy)

    def _prompted(self) -> Iterator[Prompted]:
        forget = self._workspace.data.splits["forget"]
        positions = getattr(self._workspace.policy.model.config, "max_position_embeddings", None)
        for prefix in self._how.prefixes:
            yield with_prefix(self._spec, forget, prefix, positions)
        if self._how.paraphrases is not None:
            yield paraphrased(self._spec, forget, self._how.paraphrases)


def side_by_side(found: Mapping[str, list[AttackFound]]) -> tuple[AttackOutcome, ...]:
    """One outcome per setting, of what the same attacks did to several models."""
    outcomes = []
    for same in zip(*found.values(), strict=True):
        models = dict(zip(found, same, strict=True))
        outcomes.append(
            AttackOutcome(
                same[0].attack,
                same[0].setting,
                same[0].text,
                float(same[0].amount),
                {name: one.before for name, one in models.items()},
                {name: one.nll for name, one in models.items()},
                {n: one.accuracy for n, one in models.items() if one.accuracy is not None},
            )
        )
    return tuple(outcomes)


def retrained_model(workspace: Workspace, spec: ModelSpec, source: str) -> object:
    """The exactly retrained model, whose weights have the policy's shapes.

    Raises:
        UserError: they have not, or it cannot be loaded.
    """
    model = load_model(spec, source)
    if [p.shape for p in model.parameters()] != workspace.vanilla_shapes:
        raise UserError(
            f"model.exact_retrain: {source} has other weight shapes than {spec.source}; use the "
            "same config"
        )
    return model


def _learnt(text: str, share: float) -> str:
    if text != "forget":
        return f"the {text} set"
    return f"{SHARES.get(share, f'{100 * share:.3g} %')} of the forget set"
