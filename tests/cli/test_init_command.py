"""`ray-unlearn init`: from a model and a few documents to a study that runs, or to a sentence that
says what is missing."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import REPOSITORY

from ray_unlearn.demo import build
from ray_unlearn.demo import documents as demo_documents
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.unlearn.first_study import FirstFacts, first_study, first_study_text
from ray_unlearn.unlearn.guessed_fields import guessed_fields
from ray_unlearn.unlearn.proposed_ranges import BY_SIZE

SCENES = demo_documents("shakespeare")
FORGET, UNSEEN = [[one.text for one in SCENES[name]] for name in ("forget", "approximate")]


def jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: five documents that the demo's model was trained on, and 40 others."""
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "forget.jsonl", [{"text": text} for text in FORGET[:5]])
    jsonl(tmp_path / "more.jsonl", [{"text": text} for text in UNSEEN[:40]])
    shutil.copytree(build("shakespeare").vanilla, tmp_path / "model")
    return tmp_path


GIVEN = ("--model", "model", "--forget", "forget.jsonl")


def test_a_model_and_five_documents_become_a_study_that_passes_its_checks(cli, mine: Path) -> None:
    code, out, _ = cli("init", "letters.yaml", *GIVEN, "--pool", "more.jsonl")
    assert code == 0
    words = " ".join(re.sub("[│┃]", " ", out).split())
    assert "approximate 16, retain 16 and retain_heldout 8 dealt from more.jsonl" in words
    assert re.search(
        r"perplexity 21\.\d on what is to be forgotten, \d\d\.\d on text that stands for unseen; "
        r"AUC of the loss attack 1\.00 \(0\.5: not remembered\): there is something to forget",
        words,
    )
    assert re.search(r"time: at most .* here: 24 trials on \d+ lane", words)
    assert "ray-unlearn run letters.yaml" in words
    spec = load_study(Path("letters.yaml"))
    assert spec.name == "letters"
    content = yaml.safe_load(Path("letters.yaml").read_text())
    assert content["model"] == {"source": "./model"}, "a folder may move with what it holds"
    assert content["data"]["pool"] == {"path": "more.jsonl"}
    assert content["data"]["sequence_length"] == 128
    assert content["space_overrides"]["batch_size"] == 7, "no more than there are sequences"
    assert max(map(len, Path("letters.yaml").read_text().splitlines())) <= 100


def test_a_model_that_knows_nothing_of_the_documents_is_said_before_anything_runs(
    cli, mine: Path, tiny_model: Path
) -> None:
    code, out, _ = cli("init", "a.yaml", "--model", tiny_model, "--forget", "forget.jsonl")
    words = " ".join(re.sub("[│┃]", " ", out).split())
    assert code == 0
    assert "nothing to forget" in words or "before it unlearns anything" in words
    assert "name `data.pool`, documents of your kind" in words


def test_documents_to_keep_are_kept_and_the_pool_is_what_they_are_not(cli, mine: Path) -> None:
    jsonl(mine / "kept.jsonl", [{"text": text} for text in FORGET[5:25]])
    given = (*GIVEN, "--retain", "kept.jsonl", "--pool", "more.jsonl", "--no-measure", "--json")
    code, out, _ = cli("init", "letters.yaml", *given)
    assert code == 0
    splits = yaml.safe_load(Path("letters.yaml").read_text())["data"]["splits"]
    assert splits == {"forget": {"path": "forget.jsonl"}, "retain": {"path": "kept.jsonl"}}
    said = " ".join(one["found"] for one in json.loads(out)["findings"])
    assert "data.pool: approximate 40 dealt from more.jsonl" in said


def test_a_file_of_the_users_is_never_replaced_without_a_word(cli, mine: Path) -> None:
    before = "years of work\n"
    Path("letters.yaml").write_text(before)
    code, _, err = cli("init", "letters.yaml", *GIVEN, "--no-measure")
    assert (code, Path("letters.yaml").read_text()) == (2, before)
    assert "letters.yaml: is there already; choose another name, or replace it with --force" in err
    code, out, _ = cli("init", "letters.yaml", *GIVEN, "--no-measure", "--force", "--json")
    assert code == 0
    assert load_study(Path("letters.yaml")).name == "letters"
    assert json.loads(out)["vanilla"] is None
    assert [path.name for path in mine.glob("*.tmp")] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--model: is needed, and there is no terminal to ask at"),
        (("--model", "model"), "--forget: is needed"),
        (("--model", "./modle", "--forget", "forget.jsonl"), "did you mean 'model'"),
        (("--model", "model", "--forget", "forgte.jsonl"), "did you mean 'forget.jsonl'"),
        ((*GIVEN, "--pool", "mor.jsonl"), "--pool.path: no such file or folder"),
        ((*GIVEN, "--retain", "kept.csv"), "--retain.path: unknown file type 'kept.csv'"),
        ((*GIVEN, "--method", "gradient_asent"), "did you mean 'gradient_ascent'"),
        ((*GIVEN, "--name", "../x"), "name: "),
        ((*GIVEN, "--field", "prompt"), "must be name=field"),
        (("--model", "model", "--forget", "{path: x"), "is no mapping"),
        (("--model", "model", "--forget", "odd.jsonl"), "It has 'a', 'b'; say it with --field"),
        (("--model", "model", "--forget", "broken.jsonl"), "line 2: not valid JSON"),
        (("--model", "model", "--forget", "empty.jsonl"), "no documents in"),
        ((*GIVEN, "--pool", "forget.jsonl"), "(5 more repeat documents of other splits)"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_nothing_is_written(
    cli, mine: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    jsonl(mine / "odd.jsonl", [{"a": "x", "b": "y"}])
    (mine / "broken.jsonl").write_text('{"text": "one"}\n{"text": two}\n')
    (mine / "empty.jsonl").write_text("\n")
    (mine / "kept.csv").write_text("text\nx\n")
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        code, _, err = cli("init", *arguments)
    assert code == 2
    assert said in err
    assert not list(mine.glob("study.yaml*"))


@pytest.mark.parametrize(("name", "said"), [("notes", "ends with .yaml"), (".", "is a folder")])
def test_a_place_that_is_no_study_file_is_refused(cli, mine: Path, name: str, said: str) -> None:
    code, _, err = cli("init", name, *GIVEN)
    assert code == 2
    assert said in err


def test_what_needs_no_model_is_refused_without_waiting_for_its_libraries(mine: Path) -> None:
    code = (
        "import sys\nfrom ray_unlearn.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('torch', 'ray', 'transformers') if n in sys.modules], file=sys.stderr)"
    )
    words = ["init", "--model", "model", "--forget", "forgte.jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
    assert "did you mean 'forget.jsonl'" in done.stderr


@pytest.mark.parametrize("kept", ["", "kept.jsonl"])
def test_at_a_terminal_it_asks_for_what_is_not_given(
    cli, mine: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    jsonl(mine / "kept.jsonl", [{"text": text} for text in FORGET[5:25]])
    keyboard, terminal = pty.openpty()
    os.write(keyboard, f"model\n\nforget.jsonl\nmore.jsonl\n{kept}\n".encode())
    with os.fdopen(terminal) as seat:
        monkeypatch.setattr(sys, "stdin", seat)
        code, _, err = cli("init", "--no-measure")
    os.close(keyboard)
    assert code == 0
    assert "documents to forget (file or folder)" in err
    assert "it is needed" in err, "an empty answer is none"
    content = yaml.safe_load(Path("study.yaml").read_text())
    assert content["data"]["pool"] == {"path": "more.jsonl"}
    given = {"retain": {"path": "kept.jsonl"}} if kept else {}
    assert content["data"]["splits"] == {"forget": {"path": "forget.jsonl"}} | given


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": 1, "text": "a", "question": "b", "answer": "c"}, {}),
        ({"content": "a", "title": "b"}, {"text": "content"}),
        ({"question": "a", "answer": "b"}, {"prompt": "question", "answer": "answer"}),
        ({"instruction": "a", "output": "b"}, {"prompt": "instruction", "answer": "output"}),
        ({"messages": []}, {"messages": "messages"}),
        ({"id": 3, "letter": "Dear ..."}, {"text": "letter"}),
    ],
)
def test_fields_are_guessed_where_they_are_plain(
    tmp_path: Path, row: dict[str, object], expected: dict[str, str]
) -> None:
    assert guessed_fields(jsonl(tmp_path / "a.jsonl", [row]), "--forget") == expected


@pytest.mark.parametrize("line", ["[1, 2]", "3", "nonsense", '{"text"', ""])
def test_a_row_that_is_none_is_left_to_its_reader(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    assert guessed_fields(path, "--forget") == {}


def test_conversations_get_a_template_also_where_the_tokenizer_has_none(mine: Path) -> None:
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    jsonl(mine / "talk.jsonl", [{"messages": talk}] * 2)
    place = mine / "study.yaml"
    wanted = first_study(place, "model", "talk.jsonl", None, fields={})
    for has_template in (True, False):
        facts = FirstFacts(int(1e6), "float32", False, (9, 9), 128, has_template)
        place.write_text(first_study_text(wanted, facts))
        template = load_study(place).data.chat_template or ""
        assert ("m.content" in template) is not has_template


def test_a_guess_at_what_is_not_plain_is_none(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"one": "a", "other": "b"}])
    with pytest.raises(UserError, match="which field holds the documents"):
        guessed_fields(path, "--forget")


SIZES = [0.9e6, 135e6, 7e9]


@pytest.mark.parametrize("parameters", SIZES)
@pytest.mark.parametrize("methods", [(), ("rmu", "npo"), ("gradient_ascent",)])
def test_a_file_for_any_size_and_method_loads_and_says_where_its_numbers_are_from(
    mine: Path, parameters: float, methods: tuple[str, ...]
) -> None:
    place = mine / "study.yaml"
    wanted = first_study(place, "model", "forget.jsonl", None, fields={}, methods=methods)
    facts = FirstFacts(int(parameters), "float32", False, (100,) * 400, 2048, False)
    place.write_text(first_study_text(wanted, facts))
    spec = load_study(place)
    ranges = next(ranges for most, ranges in BY_SIZE if parameters < most)
    space = spec.spaces[spec.methods[0]].parameters
    assert (space["learning_rate"].low, space["learning_rate"].high) == ranges.learning_rate
    assert space["steps"].high == 65, "five passes: 400 sequences, 32 per update"
    text = " ".join(place.read_text().replace("#", " ").split())
    assert " ".join(ranges.source.split()) in text
    if "rmu" in methods:
        assert spec.spaces["rmu"].parameters["w_r"].high == 1200, "a weight of another kind"


@pytest.mark.slow  # a whole study: Ray, two lanes, six trials, and a generated text
def test_from_five_documents_and_a_model_folder_to_a_model_that_forgot_them(mine: Path) -> None:
    here = os.environ | {"PYTHONPATH": str(REPOSITORY)}

    def user(*words: object) -> str:
        command = [sys.executable, "-m", "ray_unlearn", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=here)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    user("init", "letters.yaml", *GIVEN, "--pool", "more.jsonl", "--trials", 2)
    assert "yes: it can run on this machine" in user("plan", "letters.yaml")
    user("run", "letters.yaml", "--quiet")
    user("export", "results/letters", "--trial", "best", "-o", "forgot")
    before, after = (perplexity_and_answer(Path(name)) for name in ("model", "forgot"))
    assert after[0] > 2 * before[0], "measured by transformers alone, on the five documents"
    assert before[1] != after[1], "it goes on differently"


def perplexity_and_answer(folder: Path) -> tuple[float, str]:
    """Of a model folder, by transformers alone: on the forget set, and how it goes on with one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [tokenizer(text, return_tensors="pt")["input_ids"][:, :128] for text in FORGET[:5]]
    with torch.no_grad():
        losses = [float(model(input_ids=ids, labels=ids).loss) for ids in encoded]
        made = model.generate(encoded[0][:, :20], max_new_tokens=20, do_sample=False)
    perplexity = float(torch.tensor(losses).mean().exp())
    return perplexity, tokenizer.decode(made[0, 20:])
