"""An exported model says what it was made from, how, and under which licence."""

from pathlib import Path

from huggingface_hub import ModelCard

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.model import load_model
from ray_unlearn.unlearn.model_card import write_card


def test_the_card_names_model_trial_licence_and_metrics(
    tiny_study: StudySpec, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    model = tiny_study.model.model_copy(update={"source": str(base)})
    spec = tiny_study.model_copy(update={"model": model})
    config = TrialConfig(
        learning_rate=1e-3, steps=2, method="gradient_ascent", batch_size=4, evaluate_at=(2,)
    )
    write_card(tmp_path, spec, config, "an-id", (2, 0.5), {"forget_ppl": 12.5})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == str(base)
    assert card.data.license is None
    assert "trial an-id after update 2 at strength 0.5" in card.text
    assert "| learning_rate | 0.001 |" in card.text
    assert "| forget_ppl | 12.5 |" in card.text
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    write_card(tmp_path, spec, config, "an-id", (2, 0.5))
    assert ModelCard.load(tmp_path / "README.md").data.license == "apache-2.0"


def test_an_exported_model_generates_with_its_cache(tiny_study: StudySpec, tmp_path: Path) -> None:
    """Its config said `use_cache: false`, and generation was slow for whoever loaded it."""
    load_model(tiny_study.model).save_pretrained(tmp_path)
    assert '"use_cache": true' in (tmp_path / "config.json").read_text()
