"""Reasons of trials without a result: counted once each, the commonest first."""

from ray_unlearn.store.failure_reasons import FailureReasons, reasons_in_words


def test_only_the_commonest_reasons_are_named() -> None:
    reasons = [f"reason {name}" for name in "abcde" for _ in range(ord("f") - ord(name))]
    counted = FailureReasons(("failed", reason) for reason in reversed(reasons))
    assert reasons_in_words(counted.counts) == "reason a (5); reason b (4); reason c (3); 2 more"


def test_a_number_is_no_other_reason_and_a_result_is_none() -> None:
    """One cause at a hundred updates would look like a hundred causes."""
    counted = FailureReasons(
        [
            ("diverged", "not finite at update 3"),
            ("diverged", "not finite at update 14"),
            ("out_of_memory", ""),
            ("complete", ""),
            ("pruned", "below the median"),
            ("running", ""),
        ]
    )
    assert counted.counts == {"not finite at update 3": 2, "out of memory": 1}


def test_a_long_reason_is_cut() -> None:
    words = reasons_in_words({"x" * 500: 1})
    assert len(words) < 200
    assert words.endswith("\u2026 (1)")
