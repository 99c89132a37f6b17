"""The table of features says what is so: docs/features.md is what its checks find."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import feature_table as table
from feature_checks import CHECKS, Feature, ours

AGAIN = "python scripts/feature_table.py"


@pytest.fixture(scope="module")
def rows() -> list[Feature]:
    return table.features()


def test_the_page_says_what_the_checks_find(rows: list[Feature]) -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(rows, table.recorded()), AGAIN


def test_a_feature_without_its_test_is_not_a_yes() -> None:
    check, grown = "method gradient_ascent", "number docs/models.md Mixtral"
    none, missing = None, "tests/test_features.py::test_that_nobody_wrote"
    here = "tests/test_features.py::test_a_feature_without_its_test_is_not_a_yes"
    assert [ours(Feature("", "", check, "", test)) for test in (none, missing, here)] == [
        "untested", "untested", "yes",
    ]  # fmt: skip
    assert ours(Feature("", "", grown, "", none, counted=True)) == "untested"
    assert ours(Feature("", "", grown, "", here, counted=True)) == "1"


def test_no_row_is_there_twice(rows: list[Feature]) -> None:
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("there", "not_there"),
    [
        ("method gradient_ascent", "method gradient_asent"),
        ("hyperparameter learning_rate", "hyperparameter learning"),
        ("command report", "command reports"),
        ("name guidelines", "name guideline"),
        ("field model.lora.rank", "field model.lora.ranks"),
        ("field data.splits.prompt", "field data.splits.prompts"),
        ("field search.sampler tpe", "field search.sampler cma"),
        ("column forget_nll", "column forget_nil"),
        ("module strength", "module strengths"),
        ("file studies/demo.yaml", "file studies/demo.json"),
        ("text docs/models.md Mixtral", "text docs/models.md Mixtrol"),
        ("command report; name run", "command report; name ran"),
    ],
)
def test_a_check_can_fail(there: str, not_there: str) -> None:
    test = "tests/test_features.py::test_a_check_can_fail"
    assert [ours(Feature("", "", check, "", test)) for check in (there, not_there)] == ["yes", "no"]


def test_every_kind_of_check_is_tried_above() -> None:
    (mark,) = test_a_check_can_fail.pytestmark
    assert {pair[0].split()[0] for pair in mark.args[1]} == set(CHECKS)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with clones of all peers; each has NPO, and a flipped AUC but for the first."""
    for number, peer in enumerate(table.PEERS):
        folder = tmp_path / peer.replace("/", "+")
        (folder / "src").mkdir(parents=True)
        (folder / "src" / "npo.py").write_text("class NPO:\n    'npo'\n")
        if number:
            (folder / "src" / "auc.py").write_text("if auc < 0.5:\n    auc = 1 - auc\n")
        for command in (
            ["init", "--quiet"],
            ["add", "."],
            ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "code"],
        ):
            subprocess.run(["git", "-C", str(folder), *command], check=True)
    return tmp_path


def test_a_peers_cell_is_what_git_finds_in_its_clone(clone: Path) -> None:
    asked = [
        Feature("", "found", "", "class npo"),
        Feature("", "not found", "", r"class npo\b.*rmu"),
        Feature("", "elsewhere", "", "class npo", places=("*.yaml",)),
        Feature("", "files", "", "npo|auc", counted=True),
        Feature("", "unless", "", "npo", unless=r"auc < 0\.5"),
    ]
    answers = table.asked(asked, clone)
    first, *others = ([table.theirs(row, answers[peer]) for row in asked] for peer in table.PEERS)
    assert first == ["yes", "no", "no", "1", "yes"]
    assert others == [["yes", "no", "no", "2", "no"]] * 2
    assert [len(answers[peer]["commit"]) for peer in table.PEERS] == [40, 40, 40]


def test_a_clone_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"git clone https://github\.com/locuslab/open-unlearning"):
        table.asked([], tmp_path)


def test_a_changed_command_is_asked_again_and_not_answered_from_the_record() -> None:
    row = Feature("", "new", "", "an expression that no row has")
    with pytest.raises(SystemExit, match="--peers DIR"):
        table.theirs(row, table.recorded()["filyp/open-unlearning"])


def test_commands_are_quoted_as_a_shell_reads_them() -> None:
    row = Feature("", "", "", 'it\'s|"that" \\(', places=("*.py", "src"))
    echo = table._as_key(row.commands[0]).replace("git grep", "printf '%s\\n'", 1)
    said = subprocess.run(["bash", "-c", echo], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == row.commands[0][2:]
