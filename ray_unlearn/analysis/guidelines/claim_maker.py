"""What all claims about one method share: evidence, scope, and how a claim is put together."""

from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.grades import (
    Thresholds,
    grade_of,
    not_traced,
    unpredicted,
)
from ray_unlearn.analysis.guidelines.leave_one_out import heldout_summary
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings
from ray_unlearn.analysis.numerals import plain
from ray_unlearn.spec.guideline_file import ClaimKind, Guideline, Reason, Scope

SURFACE_KINDS: tuple[ClaimKind, ...] = ("range", "avoid", "budget")
"""Claims that rest on what the response surface predicts."""


class ClaimMaker:
    """Makes the claims about one method: each with its evidence, grade, or reasons to withhold it.

    Args:
        found: statistics of the method.
        findings: of all methods; p-values allow for their number.
        limits: thresholds.
    """

    def __init__(self, found: MethodFindings, findings: Findings, limits: Thresholds) -> None:
        self.found, self.limits, self.findings = found, limits, findings
        self.score = findings.table.score
        self.family = len(findings.methods)
        self.scope = Scope(method=found.method or None, models=found.models, domains=found.domains)
        self.evidence, self.surface_evidence = (
            evidence.model_copy(update={"heldout": heldout_summary(found.heldout)})
            for evidence in (found.evidence, found.surface_evidence)
        )
        self.untraced = not_traced(found.evidence, limits)
        self.unpredicted = unpredicted(found.check, limits)

    def make(
        self,
        kind: ClaimKind,
        reasons: list[Reason],
        *,
        param: str | None = None,
        p: float | None = None,
        family: int | None = None,
        heldout: bool = False,
        **content: object,
    ) -> Guideline:
        status = content.get("status", "not_known" if reasons else "claimed")
        base = self.evidence
        if kind == "rank":  # adaptive trials too, and nothing is predicted
            base = self.surface_evidence.model_copy(update={"left_out": None})
        elif kind in SURFACE_KINDS:
            base = self.surface_evidence
        evidence = base.model_copy(
            update={"p_value": p, "family_size": family} | ({} if heldout else {"heldout": None})
        )
        name = "/".join(part for part in (kind, self.found.method, param) if part)
        return Guideline.model_validate(
            {
                "id": name,
                "kind": kind,
                "status": status,
                "withheld_because": tuple(reasons),
                "grade": grade_of(evidence, self.limits) if status == "claimed" else None,
                "scope": self.scope,
                "param": param,
                "evidence": evidence,
                **content,
            }
        )

    def effect_p(self, param: str) -> float:
        """The p-value that the score depends on an axis, over all axes and methods."""
        return self.findings.effect_p(self.found, param)

    def unimportant(self, param: str) -> list[Reason]:
        """Why nothing is said about where a hyperparameter is good: it may not matter."""
        if self.found.check is None or self.unpredicted:
            return []
        p = self.effect_p(param)
        if p <= self.limits.family_error:
            return []
        text = (
            f"not shown to matter (p = {plain(p)} over all hyperparameters and methods; pure "
            "noise gives as much)"
        )
        return [Reason(kind="importance", text=text)]
