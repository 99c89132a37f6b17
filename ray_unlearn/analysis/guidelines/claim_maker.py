"""What all claims about one method share: evidence, scope, and how a claim is put together."""

from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.grades import Thresholds, grade_of, missing_evidence
from ray_unlearn.analysis.guidelines.leave_one_out import heldout_summary
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings
from ray_unlearn.analysis.numerals import plain
from ray_unlearn.analysis.statistics.importance import Importance
from ray_unlearn.spec.guideline_file import ClaimKind, Guideline, Reason, Scope


class ClaimMaker:
    """Makes the claims about one method: each with its evidence, grade, or reasons to withhold it.

    Args:
        found: statistics of the method.
        findings: of all methods; p-values allow for their number.
        limits: thresholds.
    """

    def __init__(self, found: MethodFindings, findings: Findings, limits: Thresholds) -> None:
        self.found, self.limits, self.family_p = found, limits, findings.family_p
        self.score = findings.table.score
        self.family = len(findings.methods)
        self.scope = Scope(method=found.method or None, models=found.models, domains=found.domains)
        self.evidence = found.evidence.model_copy(
            update={"heldout": heldout_summary(found.heldout)}
        )
        self.missing = missing_evidence(found.evidence, limits)

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
        evidence = self.evidence.model_copy(
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

    def unimportant(self, importance: Importance | None) -> list[Reason]:
        if self.missing:
            return []
        if importance is None:
            return [
                Reason(kind="trials", text="too few trials with a score to say whether it matters")
            ]
        p = self.family_p(importance)
        if p <= self.limits.family_error:
            return []
        text = (
            f"not shown to matter (p = {plain(p)} over all hyperparameters and methods; pure "
            "noise gives as much)"
        )
        return [Reason(kind="importance", text=text)]
