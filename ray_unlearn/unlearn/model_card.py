"""The card beside an exported model, in the hub's form.

It says what was forgotten, how, what was measured, what attacks did, and what is not known.
"""

import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ray_unlearn.spec.printable import clipped, printable
from ray_unlearn.spec.strict import digest, yaml_text
from ray_unlearn.store.attack_file import AttackOutcome
from ray_unlearn.store.feasibility import REPORTING
from ray_unlearn.store.schema import AS_TRAINED, TARGET_AUC, Row
from ray_unlearn.unlearn.card_facts import CARD, UNKNOWN, CardFacts, is_on_this_machine

MEASURED = {
    "forget perplexity": "forget_ppl",
    "extraction strength, forget": "forget_extraction_strength",
    "exact memorisation, forget": "forget_exact_memorisation",
    "perplexity of unseen text of the same kind": f"approximate_ppl_{REPORTING}",
    "retain perplexity": f"retain_ppl_{REPORTING}",
    "general perplexity": f"general_ppl_{REPORTING}",
    "AUC of the loss attack": f"mia_loss_auc_{REPORTING}",
    "forget gap, nats/token": f"forget_gap_{REPORTING}",
    "utility loss, nats/token": f"utility_loss_{REPORTING}",
    "score": f"score_{REPORTING}",
}
"""What the table shows, by its words."""
LIMITS = """\
- That the model no longer shows the text is measured above, not proven. The numbers are about these
  documents and this way of asking; other words, other languages or longer prompts were not tried.
- Relearning on a few related texts, or coarser weights, can bring text back. An attack that is not
  listed above was not made.
- The vanilla model is where it was. Whoever has it has the text.
- Unlearning of a document is no deletion of what the model knows from other documents.
- Other abilities than perplexity on the retain and general sets were not looked at here. Test the
  model on your own task before you use it.\
"""


def write_card(folder: Path, facts: CardFacts) -> None:
    """Write the model card of a trial's model.

    Args:
        folder: of the exported model.
        facts: what it says.

    Raises:
        OSError: it cannot be written.
    """
    lines = ["---", yaml_text(_front(facts)).rstrip(), "---", "", *_title(facts)]
    sections = {
        "What was forgotten": _forgotten,
        "How": _how,
        "Measured": _measured,
        "Attacks": _attacks,
        "Limits": lambda facts: iter([LIMITS]),
        "Where it is from": _origin,
        "Use": _use,
    }
    for heading, section in sections.items():
        lines += ["", f"## {heading}", "", *section(facts)]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _front(facts: CardFacts) -> dict[str, Any]:
    """What the hub reads. A base that is no hub id is left out: the hub refuses such a card."""
    adapter = facts.form == "adapter"
    front: dict[str, Any] = {**facts.licence}
    if not is_on_this_machine(facts.spec.model.source):
        front["base_model"] = facts.spec.model.source
        front["base_model_relation"] = "adapter" if adapter else "finetune"
    return front | {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "machine-unlearning", "ray-unlearn", facts.made.config.method],
    }


def _title(facts: CardFacts) -> Iterator[str]:
    made, spec = facts.made, facts.spec
    yield f"# {_line(spec.name)}: {made.config.method}"
    yield ""
    yield (
        f"`{_line(facts.base)}`, made to forget {facts.forget.documents:,} documents by "
        f"ray-unlearn: trial {made.trial.number} (`{made.trial.trial_id}`) of the study "
        f"`{_line(spec.name)}` after update {made.at[0]} at strength {made.at[1]:g}."
    )
    yield ""
    if facts.lacking:
        yield (
            "**The study's report calls this model not feasible**; it was exported on request all "
            f"the same: {'; '.join(facts.lacking)} (reporting half)."
        )
    else:
        yield "The study's report calls it feasible: it meets the target, and utility is kept."


def _forgotten(facts: CardFacts) -> Iterator[str]:
    forget = facts.forget
    yield "The text itself is not here; whoever has the documents can check that they are the ones."
    yield ""
    yield from _table(
        ("forget set", ""),
        [
            ("name", _line(forget.name)),
            ("documents", f"{forget.documents:,}"),
            ("tokens predicted", f"{forget.targets:,}"),
            ("SHA-256 of the sorted SHA-256 of each text", f"`{forget.sha256}`"),
            ("digest of its tokens", f"`{forget.tokens_digest}`"),
        ],
    )


def _how(facts: CardFacts) -> Iterator[str]:
    config, spec, (update, strength) = facts.made.config, facts.spec, facts.made.at
    written = spec.objective.beyond_weights()
    if written:
        yield f"Its study's objective was `{_line(written)}`."
        yield ""
    yield (
        f"Method `{config.method}`, {update} of {config.steps} updates"
        + (" with LoRA adapters" if spec.model.lora is not None else "")
        + (", adapters merged into the weights" if _is_merged(facts) else "")
        + (
            f". The weights are W_0 + {strength:g} (W_t - W_0), W_t those as trained."
            if strength != AS_TRAINED
            else ". The weights are as trained (strength 1)."
        )
    )
    yield ""
    settings = config.model_dump(mode="json", exclude={"evaluate_at", "context"})
    yield from _table(("hyperparameter", "value"), settings.items())


def _is_merged(facts: CardFacts) -> bool:
    return facts.spec.model.lora is not None and facts.form == "merged"


def _measured(facts: CardFacts) -> Iterator[str]:
    yield (
        "This folder was loaded again and measured before it was finished, on the *reporting* half "
        "of the documents, which chose nothing (the forget set is whole). "
        + _agreement(facts)
        + " The target is what a model that never saw the forget set would show, as far as it is "
        "known: perplexity as on unseen text of the same kind, all else as in the vanilla model."
    )
    yield ""
    columns = _columns(facts)
    rows = [
        (words, *(_number(row.get(name)) for row in columns.values()))
        for words, name in MEASURED.items()
        if name in facts.measured
    ]
    yield from _table(("reporting half", *columns), rows)
    yield ""
    data = facts.spec.data
    most = data.max_sequences_per_document
    yield (
        "Perplexity is exp of the mean negative log-likelihood of all predicted tokens. "
        f"Each document is read by the tokenizer, cut into pieces of {data.sequence_length} tokens"
        + (f" (the first {most} of them count)" if most else "")
        + ", and each piece is read by itself"
        + ("; of a conversation the answer's tokens count." if _has_answers(facts) else ".")
    )


def _has_answers(facts: CardFacts) -> bool:
    data = facts.spec.data
    return data.source is None and data.splits["forget"].has_answers


def _agreement(facts: CardFacts) -> str:
    if facts.apart is None:
        return "The study has no evaluation of this update to compare it with."
    apart = facts.apart[1]
    return f"It agrees with the trial's row to {apart:.1g} nats/token{' (exactly)' * (not apart)}."


def _columns(facts: CardFacts) -> dict[str, Row]:
    vanilla = facts.record.baselines["vanilla"]
    found = {"vanilla": vanilla}
    if "exact_retrain" in facts.record.baselines:
        found["retrained without the forget set"] = facts.record.baselines["exact_retrain"]
    names = [name for name in MEASURED.values() if name.endswith(f"_ppl_{REPORTING}")]
    target = {name: vanilla[name] for name in names}
    target |= {
        "forget_ppl": vanilla[f"approximate_ppl_{REPORTING}"],
        f"mia_loss_auc_{REPORTING}": TARGET_AUC,
    }
    return found | {"target": target, "this model": facts.measured}


def _attacks(facts: CardFacts) -> Iterator[str]:
    if not facts.attacks:
        yield "Not attacked: how easily the text comes back is not known."
        return
    yield (
        "*Undone* is the share of what the model had forgotten that the attack takes back: 0 "
        "nothing, 1 all of it."
    )
    yield ""
    rows = [
        (one.attack, _line(one.setting), _line(one.text), _undone(one)) for one in facts.attacks
    ]
    yield from _table(("attack", "setting", "text", "undone"), rows)


def _undone(one: AttackOutcome) -> str:
    share = one.undone()
    return "not known" if share is None else f"{share:.2f}"


def _origin(facts: CardFacts) -> Iterator[str]:
    spec, header, licence = facts.spec, facts.record.header, facts.licence["license"]
    known = f"that of the base model, `{_line(licence)}`."
    yield "Licence: " + (
        "unknown; neither card nor config of the base model states one, and it holds for this "
        "model too. Find out before you pass it on."
        if licence == UNKNOWN
        else known
    )
    yield ""
    libraries = [f"{name} {number}" for name, number in sorted(header.libraries.items())]
    rows = [
        ("base model", f"`{_line(facts.base)}`, revision {spec.model.revision or 'not pinned'}"),
        ("digest of the base model", f"`{header.model_digest}`"),
        ("trained with", f"ray-unlearn {header.code_version}; {', '.join(libraries)}"),
        ("exported with", f"ray-unlearn {version('ray-unlearn')}"),
        ("digest of model, data, evaluation", f"`{facts.made.config.context or 'not known'}`"),
        ("digest of the study file", f"`{digest(spec.model_dump(mode='json'))}`"),
        ("form", facts.form),
    ]
    if facts.form == "merged":
        changed = ", ".join(f"`{name}`" for name in facts.differences) or "none"
        rows.append(("fields of config.json that are not the base model's", changed))
    yield from _table(("", ""), rows)
    yield ""
    if facts.claims is None:
        yield "The study had no report when this was exported, so there are no claims to cite."
    elif not facts.claims:
        yield "The study's report claims nothing of this method."
    else:
        names = ", ".join(f"`{_line(one)}`" for one in facts.claims)
        yield f"Claims of the study's report that this method is in: {names}."


def _use(facts: CardFacts) -> Iterator[str]:
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    if facts.form == "adapter":
        yield "# adapters alone: needs PEFT, which loads the base model too"
    yield 'model = AutoModelForCausalLM.from_pretrained("this folder")'
    yield 'tokenizer = AutoTokenizer.from_pretrained("this folder")'
    yield "```"


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield _cells(head)
    yield _cells(("---",) * len(head))
    for row in rows:
        yield _cells(row)


def _cells(row: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"


def _number(value: Any) -> str:
    if value is None or not math.isfinite(value):
        return "" if value is None else str(value)
    return f"{value:.6g}"


def _line(text: str) -> str:
    """Text of others on one line, without links, HTML, or what ends a cell or a code span."""
    line = clipped(printable(" ".join(text.split())).replace("`", "'"))
    return line.replace("[", "\\[").replace("<", "\\<")
