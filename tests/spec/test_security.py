"""What docs/security.md promises: nothing that is read runs, no name leads out of a study, no text
becomes markup.

Each rule for the sources is proven on a snippet that breaks it.
"""

import ast
import os
import pickle
import re
import stat
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from obstore.store import MemoryStore
from prometheus_client import CollectorRegistry, start_http_server
from tiny import REPOSITORY, study_file

from ray_unlearn.analysis.report.render import _markdown
from ray_unlearn.analysis.report.write import write_report
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.execution.resume import write_spec
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.strict import read_yaml
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store import location as place
from ray_unlearn.store.event import (
    BaselineMeasured,
    BestWeightsKept,
    Header,
    RowMeasured,
    TrialAsked,
)
from ray_unlearn.store.files import kept_weights, remove_checkpoints, remove_leftovers
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.object_storage import ObjectStorage
from ray_unlearn.store.record import Record
from ray_unlearn.store.storage import FolderStorage, file_sha256, local_file
from ray_unlearn.store.verify import verify
from ray_unlearn.unlearn.checkpoint import VERSION, TrialState
from ray_unlearn.unlearn.policy import load_policy

ON_A_CPU: Any = SimpleNamespace(device=torch.device("cpu"))
"""What a trial's state needs of a workspace to read a checkpoint."""
ON_A_GPU: Any = SimpleNamespace(device=torch.device("cuda"))
SOURCES = sorted((REPOSITORY / "ray_unlearn").rglob("*.py"))
READS_PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
STARTS_PROCESSES = {"Parallel", "delayed"}
"""Of joblib: processes of our own, which talk through pipes; nothing is read from a file."""
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
RUNS_SHELL = {"system", "popen", "getoutput", "getstatusoutput"}
YAML_READERS = {"load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
BY_NAME = {
    "torch": "load",
    "yaml": "load",
    "numpy": "load",
    "os": "system",
    "ray": "cloudpickle",
    "jinja2": "Environment",
}


def dangers(source: str) -> list[str]:
    """What in a module could run what it reads, or show it to others."""
    return [
        f"line {getattr(node, 'lineno', 0)}: {found}"
        for node in ast.walk(ast.parse(source))
        for found in _in(node)
    ]


def _in(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (
            f"imports {a.name}" for a in node.names if a.name.partition(".")[0] in READS_PICKLES
        )
    elif isinstance(node, ast.ImportFrom):
        module = (node.module or "").partition(".")[0]
        own_processes = module == "joblib" and {a.name for a in node.names} <= STARTS_PROCESSES
        if module in READS_PICKLES and not own_processes:
            yield f"imports from {module}"
        yield from (
            f"imports {a.name} from {module}" for a in node.names if BY_NAME.get(module) == a.name
        )
    elif isinstance(node, ast.ClassDef) and "Loader" in node.name:
        bases = [ast.unparse(base) for base in node.bases]
        if any(
            "yaml" in base and base not in ("yaml.SafeLoader", "yaml.CSafeLoader") for base in bases
        ):
            yield f"YAML by {bases}"
    elif isinstance(node, ast.Call):
        yield from _in_call(node)
    elif isinstance(node, ast.Constant) and node.value == "env_vars":
        yield "runtime_env.env_vars are plain text in Ray's logs"


def _in_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    owner, _, last = name.rpartition(".")
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    of_the_package = bool(call.args) and ast.unparse(call.args[0]).startswith("f'{__name__}.")
    if name in RUNS_TEXT or (last == "import_module" and not of_the_package):
        yield f"{name} runs text"
    if owner == "os" and last in RUNS_SHELL:
        yield f"{name} runs a shell"
    if given.get("shell", "False") != "False":
        yield "shell=True"
    if last == "read_pickle":
        yield "reads a pickle"
    if name in ("torch.load", "torch.jit.load") and given.get("weights_only") != "True":
        yield f"{name} without weights_only=True"
    if given.get("allow_pickle", "False") != "False":
        yield "allow_pickle=True"
    if owner == "yaml" and last in YAML_READERS:
        yield f"{name} is no safe loader"
    if name == "yaml.load" and given.get("Loader") not in (
        "_Loader",
        "yaml.SafeLoader",
        "yaml.CSafeLoader",
    ):
        yield "yaml.load without a safe loader"
    if (
        name == "jinja2.Environment"
        and given.get("autoescape") != "True"
        and given.get("finalize") != "_markdown"
    ):
        yield "templates that escape nothing"
    if given.get("trust_remote_code", "False") != "False":
        yield "trust_remote_code"
    if last == "from_pretrained" and owner.startswith("Auto") and "trust_remote_code" not in given:
        yield "does not refuse remote code"
    if last == "start_http_server" and given.get("addr") != "'127.0.0.1'":
        yield "serves the network"
    if "env_vars" in given:
        yield "runtime_env.env_vars are plain text in Ray's logs"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_source_runs_what_it_reads(path: Path) -> None:
    found = dangers(path.read_text(encoding="utf-8"))
    if path.name == "method_modules.py":  # what the user's environment names, no study
        assert [one.partition(": ")[2] for one in found] == ["import_module runs text"]
    else:
        assert found == []


ONE_PLACE = {
    r"\bjson\.loads?\(": {
        "spec/given_file.py",
        "unlearn/world.py", "unlearn/conversations.py", "demo/pretrain.py", "demo/text.py",
        "demo/build.py",  # of their own making, in this process or on this machine
        "unlearn/as_jsonl.py",  # in a command that a message proposes
    },
    r"(?m)^ *print\(": {
        "cli/show.py", "cli/main.py", "cli/watch.py", "api/given.py", "execution/study.py",
        "execution/stages.py", "__init__.py", "api/guide.py",  # the last two in examples
    },
}  # fmt: skip
"""What is done in one place, so that no other can forget the bounds and the escapes."""


@pytest.mark.parametrize("pattern", ONE_PLACE, ids=["json", "print"])
def test_others_files_are_read_and_shown_in_one_place(pattern: str) -> None:
    package = REPOSITORY / "ray_unlearn"
    found = {
        path.relative_to(package).as_posix()
        for path in SOURCES
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert found <= ONE_PLACE[pattern], "spec/given_file.py, spec/printable.py"
    assert len(found) > 1, "the pattern finds what it looks for"


@pytest.mark.parametrize(
    "snippet",
    [
        "import pickle",
        "import dill as p",
        "from pickle import load",
        "from joblib import load",
        "from joblib import Parallel, load",
        "import joblib",
        "from torch import load",
        "from ray import cloudpickle",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, map_location='cpu', weights_only=safe)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=anything)",
        "pd.read_pickle(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, yaml.UnsafeLoader)",
        "yaml.unsafe_load(text)",
        "class _Loader(yaml.Loader): ...",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "eval(text)",
        "exec(text)",
        "importlib.import_module(spec.name)",
        "jinja2.Environment(loader=loader)",
        "jinja2.Environment(loader=loader, autoescape=False)",
        "AutoConfig.from_pretrained(source)",
        "AutoModelForCausalLM.from_pretrained(source, trust_remote_code=spec.trust)",
        "start_http_server(port)",
        "start_http_server(port, addr='0.0.0.0')",
        "ray.init(runtime_env={'env_vars': {'HF_TOKEN': token}})",
        "RuntimeEnv(env_vars=secrets)",
    ],
)
def test_the_rules_find_what_breaks_them(snippet: str) -> None:
    assert dangers(snippet) != []


def test_the_rules_allow_what_is_safe() -> None:
    assert (
        dangers("model.eval()\nre.compile(x)\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)")
        == []
    )


@pytest.mark.parametrize("name", ["a", "a..b", "A-1_x.y", "x" * 64])
def test_names_of_studies(small: StudySpec, name: str) -> None:
    assert StudySpec.model_validate(small.model_dump() | {"name": name}).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/a", "a\\b", "-a", "a b", "a\n", "a\0", "é", "x" * 65]
)
def test_names_of_studies_that_are_refused(small: StudySpec, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        StudySpec.model_validate(small.model_dump() | {"name": name})


# What a file in a study may do when it is read.


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    """Works when it is unpickled, and must not have been by the end of the test."""
    control = Payload(tmp_path / "control")
    pickle.loads(pickle.dumps(control))
    assert (tmp_path / "control").is_dir()
    planted = Payload(tmp_path / "ran")
    yield planted
    assert not Path(planted.marker).exists(), "a file of the study ran"


@pytest.fixture
def small(tmp_path: Path) -> StudySpec:
    """A study of one method; its text and model are not there, and not needed."""
    return load_study(
        study_file(tmp_path, tmp_path, tmp_path / "model", methods=["gradient_ascent"])
    )


@pytest.fixture
def config() -> TrialConfig:
    return TrialConfig(
        method="gradient_ascent", learning_rate=1e-3, steps=4, evaluate_at=(1, 2, 4), context="c"
    )


def _planted(payload: Payload, config: TrialConfig, kind: str, path: Path) -> None:
    state = {
        "version": VERSION,
        "trial_id": config.id,
        "meter": {"update": 1},
        "parameters": payload,
    }
    if kind == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_a_planted_checkpoint_is_of_no_use(
    payload: Payload, config: TrialConfig, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    _planted(payload, config, kind, path)
    for workspace in (ON_A_CPU, ON_A_GPU):
        assert TrialState(workspace, config, None, None).read(path, {1, 2, 4}) is None


@pytest.mark.parametrize(
    "content",
    [
        None,
        [1],
        {"version": VERSION},
        {"version": VERSION, "trial_id": "own"},
        {"meter": {"update": "1"}},
    ],
)
def test_nor_is_one_of_another_form(config: TrialConfig, content: Any, tmp_path: Path) -> None:
    if isinstance(content, dict):
        content = {"version": VERSION, "trial_id": config.id, "meter": 3} | content
    torch.save(content, tmp_path / "last.pt")
    assert TrialState(ON_A_CPU, config, None, None).read(tmp_path / "last.pt", ()) is None


def test_a_usable_checkpoint_is_read(config: TrialConfig, tmp_path: Path) -> None:
    """The tests above would pass if nothing were."""
    torch.save(
        {"version": VERSION, "trial_id": config.id, "meter": {"update": 1}}, tmp_path / "last.pt"
    )
    for workspace in (ON_A_CPU, ON_A_GPU):
        state = TrialState(workspace, config, None, None)
        assert state.read(tmp_path / "last.pt", {1}) is not None


def test_planted_weights_do_not_run(payload: Payload, tmp_path: Path) -> None:
    path = tmp_path / "0002-4.safetensors"
    torch.save({"weight": payload}, path)
    with pytest.raises(Exception, match=r"[Hh]eader"):  # of safetensors
        load_policy(SimpleNamespace(weights=dict), path)


@pytest.fixture
def study(tmp_path: Path, small: StudySpec, config: TrialConfig) -> Path:
    """A study directory with one unfinished trial."""
    folder = tmp_path / "results" / "study"
    write_spec(folder / "study.yaml", small)
    header = Header(spec=small.model_dump(mode="json"), domain="d", context="c")
    with Ledger.create(folder / "ledger", header) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics={"forget_nll": 3.0}))
        content = config.model_dump(mode="json")
        ledger.append(TrialAsked(number=0, trial_id=config.id, source="random", config=content))
        metrics = {"update": 1, "score_selection": 0.5}
        ledger.append(RowMeasured(number=0, update=1, metrics=metrics))
    return folder


def test_verify_opens_planted_files_and_runs_none(study: Path, payload: Payload) -> None:
    for name in ("ledger/rows.parquet", "optuna.journal", "tuner.pkl", "trials/0000/last.pt"):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_bytes(pickle.dumps(payload))
    verify(study)
    with Ledger.open(study / "ledger") as ledger:
        remove_leftovers(FolderStorage(study), ledger.record)


# Names that lead out of a study.


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's outside the study."""
    path = tmp_path / "thesis.tex"
    path.write_text("years of work")
    return path


def _keeps(study: Path, name: str, content: Path) -> None:
    about: dict[str, Any] = {"bytes": content.stat().st_size, "sha256": file_sha256(content)}
    with Ledger.open(study / "ledger") as ledger:
        ledger.append(BestWeightsKept(number=0, trial_id="t", update=1, file=name, **about))


def _record(study: Path) -> Record:
    with Ledger.open(study / "ledger") as ledger:
        return ledger.record


@pytest.mark.parametrize(
    "name", ["../../thesis.tex", "trials/best/../../../../thesis.tex", "ABSOLUTE"]
)
def test_a_ledger_that_names_a_file_outside(
    study: Path, small: StudySpec, victim: Path, name: str
) -> None:
    """Whoever wrote it knows the file's digest, so only the name tells."""
    name = str(victim) if name == "ABSOLUTE" else name
    _keeps(study, name, victim)
    record, storage = _record(study), FolderStorage(study)
    assert kept_weights(storage, record, 0, 1) is None, "export and resume"
    assert any("outside the study" in problem for problem in verify(study).problems)
    remove_leftovers(storage, record)
    with Ledger.open(study / "ledger") as ledger:
        nobody = SimpleNamespace(tell=print, verdict=print)
        recorder = Recorder(small, ledger, nobody, nobody, storage=storage)
        recorder.outcome(0, 0, "diverged", "its row does not count any more")
    for ask in (storage.read, storage.remove, storage.path, storage.files):
        with pytest.raises(PermissionError, match="outside the study"):
            ask(name)
    for write in (storage.write, storage.put, storage.fetch):
        with pytest.raises(PermissionError, match="outside the study"):
            write(
                *(
                    (victim, name)
                    if write == storage.put
                    else (name, b"" if write == storage.write else victim)
                )
            )
    with pytest.raises(PermissionError), local_file(storage, name):
        pass
    assert victim.read_text() == "years of work"


def test_a_good_name_is_kept_and_replaced(study: Path, small: StudySpec, victim: Path) -> None:
    """The test above would pass if nothing were ever read or deleted."""
    name = "trials/best/0000-1.safetensors"
    storage = FolderStorage(study)
    storage.put(victim, name)
    _keeps(study, name, victim)
    assert kept_weights(storage, _record(study), 0, 1) == name
    with Ledger.open(study / "ledger") as ledger:
        nobody = SimpleNamespace(tell=print, verdict=print)
        recorder = Recorder(small, ledger, nobody, nobody, storage=storage)
        recorder.outcome(0, 0, "diverged", "its row does not count any more")
    assert not (study / name).exists()


@pytest.mark.parametrize("name", ["../other/x", "/x", "a/../../x", "a//x", ".", ""])
def test_names_in_an_object_store(name: str, tmp_path: Path) -> None:
    """Refused before anything is asked over the network."""
    asked: list[str] = []
    memory = MemoryStore()

    class Seen:
        def __getattr__(self, what: str) -> Any:
            asked.append(what)
            return getattr(memory, what)

    storage = ObjectStorage("s3://bucket/studies/mine", store=Seen())
    asks: list[Callable[[], object]] = [
        lambda: storage.read(name),
        lambda: storage.about(name),
        lambda: storage.write(name, b""),
        lambda: storage.create(name, b""),
        lambda: storage.exchange(name, b"", b""),
        lambda: storage.put(Path(__file__), name),
        lambda: storage.fetch(name, tmp_path / "x"),
        lambda: storage.remove(name),
    ]
    for ask in asks if name in ("", ".") else [*asks, lambda: storage.files(name)]:
        with pytest.raises(PermissionError, match="outside the study"):
            ask()
    assert asked == []
    storage.write("study.yaml", b"")
    assert asked == ["put"], "what is asked is seen"


@pytest.mark.parametrize("place", ["trials", "trials/0000"])
def test_a_link_out_of_a_study_is_not_followed(study: Path, victim: Path, place: str) -> None:
    """An ended trial's folder is emptied, and leftovers are deleted: not in the user's home."""
    folder = victim.parent / "home" / "0000"
    folder.mkdir(parents=True)
    (folder / "last.pt").write_text("years of work")
    (study / place).parent.mkdir(exist_ok=True)
    (study / place).symlink_to(folder if place.endswith("0000") else folder.parent)
    storage = FolderStorage(study)
    record = _record(study)
    remove_checkpoints(storage, 0)
    record.trials[0].status = "complete"  # its checkpoints are leftovers
    if place == "trials":
        with pytest.raises(PermissionError, match="symbolic link"):
            remove_leftovers(storage, record)
    else:
        remove_leftovers(storage, record)
    with pytest.raises(PermissionError, match="symbolic link"):
        storage.path("trials/0000/last.pt")
    assert (folder / "last.pt").exists()


def test_a_study_directory_may_be_a_link_itself(study: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(study)
    storage = FolderStorage(tmp_path / "link")
    storage.write("trials/0000/last.pt", b"1")
    assert storage.read("trials/0000/last.pt") == b"1"
    assert "trials/0000/last.pt" in [file.name for file in storage.files("trials")]


# YAML.


def _bomb(levels: int = 10) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"methods: *a{levels - 1}"]) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_bomb(), "line 2: alias *a0: write the value out instead"),
        ("a: &a [*a]", "line 1: alias *a"),
        ("a: &a {b: 1}\nc: {<<: *a}", "line 2: alias *a"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: !!python/object/apply:os.mkdir [x]", "not valid YAML"),
    ],
)
def test_yaml_that_is_more_than_it_seems(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(said)):
        load_study(path)


def test_our_own_files_have_no_aliases(study: Path) -> None:
    """`study.yaml` is written by a dumper that makes them of shared lists."""
    for path in (
        study / "study.yaml",
        *REPOSITORY.glob("studies/**/*.yaml"),
        *REPOSITORY.glob("search_spaces/*.yaml"),
    ):
        assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


# Reports.

SCRIPT = "<script>alert(1)</script>"


def test_a_hostile_table_makes_a_harmless_report(tmp_path: Path) -> None:
    methods = [f"a{SCRIPT}", "=cmd|' /C calc'!A0", "![x](http://evil/x.png) [y](javascript:z)"]
    lines = [
        {
            "trial": i,
            "study": f"{SCRIPT}{i % 2}",
            "domain": f"d{SCRIPT}{i % 2}",
            "model": 'm" onmouseover="alert(1)"><img src=x onerror=alert(1)>',
            "method": methods[i % 3],
            "step": 10,
            "score": (i * 7919 % 101) / 101,
            f"lr`{SCRIPT}": 10 ** -(2 + i * 31 % 97 / 30),
            "kind": f"<b>{i % 2}</b>\x1b[31m\u202e",
            "notes": f"{SCRIPT}{i}",
        }
        for i in range(150)
    ]
    pd.DataFrame(lines).to_csv(tmp_path / f"odd {SCRIPT.replace('/', '')}.csv", index=False)
    (source,) = tmp_path.glob("odd*.csv")
    html = write_report([source], tmp_path / "out", sampler="random").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in html, "the names are there"
    assert "<svg" in html
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        acting = {one for one in text if unicodedata.category(one) in ("Cc", "Cf")}
        assert acting == {"\n"}, "no escape, no text from right to left"
    tags = re.findall(r"<\s*([a-zA-Z]+)([^>]*)>", html)
    assert {name.lower() for name, _ in tags} & {
        "script",
        "img",
        "iframe",
        "object",
        "b",
        "base",
        "form",
    } == set()
    assert [
        rest for _, rest in tags if re.search(r"\son\w+\s*=(?!&)", re.sub(r'"[^"]*"', '""', rest))
    ] == []
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    page = MarkdownIt("commonmark").enable("table").render(markdown)
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert [link for link in links if not re.fullmatch(r"figures/[A-Za-z0-9._-]+\.png", link)] == []
    assert "<script" not in page
    for path in (tmp_path / "out").rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name), "names of files are harmless"


@pytest.mark.parametrize(
    "text",
    [
        "[x](http://evil)",
        "![x](http://evil)",
        "a`[x](http://evil)",
        "``a`[x](http://evil)",
        "`a``b`[x](http://evil)``",
        "\\[x\\](http://evil)",
        "\\`[x](http://evil)\\`",
        "<http://evil>",
        "<a href=http://evil>x</a>",
        "x | [y](http://evil) | z",
    ],
)
def test_no_value_is_a_link_in_markdown(text: str) -> None:
    page = (
        MarkdownIt("commonmark")
        .enable("table")
        .render(f"| h |\n| --- |\n| {_markdown(text)} |\n\n- {_markdown(text)}\n")
    )
    assert "<a " not in page
    assert "<img" not in page
    assert page.count("<td>") == 1, "one cell stays one cell"


# Secrets, and other users of the machine.


def _fields(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from _fields(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _fields(value)


def test_a_study_has_no_field_for_a_secret() -> None:
    """It is copied into the ledger, into every report and into logs."""
    names = set(_fields(StudySpec.model_json_schema()))
    assert "metrics_port" in names
    secret = re.compile(
        r"(^|_)(token|secret|password|passwd|credentials?|api_?key|access_key|env|env_vars)$"
    )
    assert [name for name in names if secret.search(name)] == []


def test_a_key_in_a_study_file_is_refused(tmp_path: Path) -> None:
    model = {"source": str(tmp_path / "model"), "token": "hf_planted"}
    with pytest.raises(UserError, match=r"model\.token: unknown key") as caught:
        load_study(study_file(tmp_path, tmp_path, tmp_path / "model", model=model))
    assert "hf_planted" not in str(caught.value)


def test_the_metrics_are_served_to_this_machine_only() -> None:
    """As `observation` calls it: see the rule for `start_http_server` above."""
    server, thread = start_http_server(0, addr="127.0.0.1", registry=CollectorRegistry())
    try:
        assert server.server_address[0] == "127.0.0.1"
        assert isinstance(thread, threading.Thread)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_a_working_copy_is_its_owners_alone() -> None:
    before = os.umask(0)
    try:
        with place._scratch("s3://bucket/studies/mine") as folder:
            assert folder.name == "mine"
            assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)
