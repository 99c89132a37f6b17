"""The ways in: files that a reader is given, how they are made hostile, and what is called."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import mutations as m
import obstore
import pyarrow.csv
import pyarrow.parquet as pq
import torch
import yaml
from guarded import BrokenPromise, command, controls, guarded
from obstore.store import MemoryStore
from tiny import REPOSITORY

from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.trials import trial_table
from ray_unlearn.api import Study, narrow, report
from ray_unlearn.environment import Environment
from ray_unlearn.spec.data_spec import SplitSource
from ray_unlearn.spec.guideline_file import load_guidelines
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.task_results import TASKS_FILE, TaskResults, TaskScore, task_results_as_json
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.attack_file import AttackedModel, AttackOutcome, write_attacks
from ray_unlearn.store.lease import Holder
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.live import LANE_FIELDS, Live
from ray_unlearn.store.location import StudyFiles
from ray_unlearn.store.object_events import HEADER_COPY, event_object, joined_object
from ray_unlearn.store.object_storage import ObjectStorage
from ray_unlearn.store.repair import repair_remote
from ray_unlearn.store.working_copy import WorkingCopy
from ray_unlearn.tabular import MethodTable, load_table
from ray_unlearn.unlearn.checkpoint import VERSION, TrialState
from ray_unlearn.unlearn.guessed_fields import guessed_fields
from ray_unlearn.unlearn.model import load_model, load_tokenizer
from ray_unlearn.unlearn.model_files import check_source
from ray_unlearn.unlearn.sources import read_source

ON_A_CPU: Any = SimpleNamespace(device=torch.device("cpu"))
FIXTURES = REPOSITORY / "tests/fixtures"
Call = Callable[[Path], Callable[[], Any]]
"""Of a world's folder: what to call."""


@dataclass(frozen=True)
class Entrance:
    """A way in for files that somebody else has written."""

    name: str
    files: tuple[str, ...]
    """Those that are made hostile, one at a time; patterns below the world's folder."""
    changes: tuple[m.Bytes, ...]
    calls: dict[str, Call]
    """By name, the readers; one is called for each example."""
    slow: tuple[str, ...] = ()
    """Names of calls that take seconds: seldom called."""


CONFIG = TrialConfig(
    method="gradient_ascent", learning_rate=1e-3, steps=4, evaluate_at=(1, 2, 4), context="c"
)


def world(folder: Path) -> Path:
    """A folder with a real study and whatever else is read, and beside it what nobody may touch."""
    place = folder / "world"
    shutil.copytree(FIXTURES / "study_schema_3/study", place / "study")
    shutil.copytree(FIXTURES / "study_schema_2/model", place / "model")
    shutil.copytree(FIXTURES / "study_schema_2/text", place / "text")
    shutil.copytree(FIXTURES / "tabular", place / "tabular")
    shutil.copytree(REPOSITORY / "search_spaces", place / "search_spaces")
    for name in ("guidelines.json", "before.json"):
        shutil.copy(REPOSITORY / "docs/reference/guidelines.json", place / name)
    _study_files(place)
    _tables(place)
    _sharded(place / "sharded", place / "model")
    _measured_later(place / "study")
    _objects(place / "objects", place / "study")
    torch.save(
        {"version": VERSION, "trial_id": CONFIG.id, "meter": {"update": 1}, "parameters": [1.0]},
        place / "last.pt",
    )
    (folder / "outside").mkdir()
    (folder / "outside/victim.txt").write_text("years of work\n")
    return place


def _study_files(place: Path) -> None:
    """`study.yaml` with model and texts where they are now, and a file as people write it."""
    spec = yaml.safe_load((place / "study/study.yaml").read_text())
    spec["model"]["source"] = str(place / "model")
    for name, split in spec["data"]["splits"].items():
        split["path"] = str(place / f"text/{name}.jsonl")
    (place / "study/study.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    written = {"name": "mine", "spaces": "search_spaces"}
    written |= {key: spec[key] for key in ("model", "data", "methods", "search", "evaluation")}
    (place / "mine.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    shutil.copy(REPOSITORY / "studies/campaign/shakespeare.yaml", place / "reference.yaml")
    given = yaml.safe_load((place / "reference.yaml").read_text())
    given["spaces"] = "search_spaces"
    given["evaluation"]["strength"] = "both"  # as in the guidelines
    given["search"]["scheduler"] = {"type": "none"}
    (place / "reference.yaml").write_text(yaml.safe_dump(given, sort_keys=False))


def _tables(place: Path) -> None:
    """The study's table alone, the same as CSV, and a table of another program."""
    (place / "tables").mkdir()
    table = pq.read_table(place / "study/ledger/rows.parquet")
    pq.write_table(table, place / "tables/rows.parquet")
    (place / "csv").mkdir()
    pyarrow.csv.write_csv(table, place / "csv/rows.csv")
    lines = [
        {"trial": i, "method": "ab"[i % 2], "lr": 10.0 ** -(i % 5), "seed": i % 3, "score": i / 9}
        for i in range(24)
    ]
    header = ",".join(lines[0])
    text = "\n".join([header, *(",".join(map(str, line.values())) for line in lines)])
    (place / "foreign.csv").write_text(f"{text}\n")
    (place / "foreign.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (place / "foreign.json").write_text(json.dumps(lines))
    for line in lines[:6]:
        trial = place / f"tune/trial_{line['trial']}"
        trial.mkdir(parents=True)
        (trial / "params.json").write_text(json.dumps({"lr": line["lr"]}))
        result = {"training_iteration": 1, "score": line["score"], "config": {"lr": line["lr"]}}
        (trial / "result.json").write_text(f"{json.dumps(result)}\n")
    _deepcave(place / "deepcave", lines)
    run = place / "mlruns/0/abc"
    for name, files in {
        "params": {"lr": "0.1"}, "metrics": {"score": "1 0.5 0\n"}, "tags": {"mlflow.runName": "a"},
    }.items():  # fmt: skip
        (run / name).mkdir(parents=True)
        for file, content in files.items():
            (run / name / file).write_text(content)
    meta = {"run_id": "abc", "experiment_id": "0", "status": 3, "lifecycle_stage": "active"}
    (run / "meta.yaml").write_text(yaml.safe_dump(meta))
    (run.parent / "meta.yaml").write_text(yaml.safe_dump({"experiment_id": "0", "name": "d"}))
    evals = place / "open_unlearning/task_a/evals"
    evals.mkdir(parents=True)
    (evals / "TOFU_SUMMARY.json").write_text(json.dumps({"forget_quality": 0.1}))


def _deepcave(folder: Path, lines: list[dict[str, Any]]) -> None:
    folder.mkdir()
    configs = {str(line["trial"]): {"lr": line["lr"]} for line in lines}
    (folder / "configs.json").write_text(json.dumps(configs))
    objectives = [{"name": "score", "optimize": "lower"}]
    (folder / "meta.json").write_text(json.dumps({"objectives": objectives, "budgets": [1]}))
    history = [[line["trial"], 1.0, 0, [line["score"]], 0, 1, 1, {}] for line in lines]
    (folder / "history.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in history))
    ranges = [{"name": "lr", "type": "uniform_float", "lower": 0.0, "upper": 1.0, "log": False}]
    (folder / "configspace.json").write_text(json.dumps({"hyperparameters": ranges}))


def _sharded(folder: Path, model: Path) -> None:
    """The model with an index beside its weights, as large ones have."""
    shutil.copytree(model, folder)
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    data = (folder / "part-1.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    names = [name for name in header if name != "__metadata__"]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "part-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _measured_later(study: Path) -> None:
    """What attacks, tasks and a running driver leave beside a study's ledger."""
    outcome = AttackOutcome("relearn", "20 updates", "forget", 20.0, *_by_model())
    about = {"method": "gradient_ascent", "number": 0, "trial_id": "t", "seed": 0}
    write_attacks(study, [AttackedModel(**about, update=1, strength=1.0, outcomes=(outcome,))])
    numbers = {"this": 0.5, "vanilla": 0.6}
    score = TaskScore(task="arc", metric="acc", values=numbers, standard_errors=numbers)
    about = {"trial": 0, "trial_id": "t", "method": "gradient_ascent", "update": 1, "strength": 1.0}
    found = TaskResults(**about, asked=("arc",), lm_eval="0.4", scores=(score,))
    (study / TASKS_FILE).write_bytes(task_results_as_json((found,)))
    lane = dict.fromkeys(LANE_FIELDS, 1) | {"state": "busy", "node": "a", "pids": [1]}
    when = "2026-11-30T12:00:00+00:00"
    live = Live(
        study="tiny", running=True, time=when, started=when, host="a", pid=1, asked_for=12,
        outcomes={"complete": 1}, trials_running=1, rows=3, updates=4, tokens={"forget": 9},
        updates_per_s=1.0, tokens_per_s=9.0, best={"gradient_ascent": 0.5}, lanes=[lane], queued=0,
        utilisation=0.5, eta_s=60.0, events=9, problems=["a port is taken"],
    )  # fmt: skip
    (study / "live.json").write_text(json.dumps(asdict(live)))


def _objects(folder: Path, study: Path) -> None:
    """The study as it is in an object store, a file per object."""
    lines = (study / "ledger/events.jsonl").read_bytes().splitlines(keepends=True)
    objects = {event_object(number): line for number, line in enumerate(lines)}
    objects[joined_object(range(64))] = b"".join(lines[:64])
    objects[HEADER_COPY] = lines[0]
    objects["ledger/lease.json"] = Holder(1, "a", 1, 0.0, released=True).as_json()
    for name, content in objects.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _by_model() -> tuple[dict[str, float], dict[str, float]]:
    return {"trial": 3.0, "vanilla": 1.0}, {"trial": 1.5, "vanilla": 1.0}


# -- calls -----------------------------------------------------------------------------------------


def _cli(*arguments: str) -> Call:
    """The command line; `{}` in an argument is the world's folder."""
    return lambda place: command(*(argument.replace("{}", str(place)) for argument in arguments))


def _report(*sources: str) -> Call:
    """The whole report, whose pages show text as it is."""

    def call(place: Path) -> Callable[[], Any]:
        def written() -> None:
            page = Path(report(*(place / source for source in sources), out=place / "report").page)
            for text in (page.read_text(), page.with_suffix(".md").read_text()):
                if bad := controls(text):
                    at = text.index(bad[0])
                    raise BrokenPromise(f"the page holds {bad[0]!r}: {text[at - 80 : at + 40]!r}")
                if "<script" in text or "<img src=x" in text:
                    raise BrokenPromise("the page holds markup of a name")

        return written

    return call


def _tabular_rows(place: Path) -> Callable[[], Any]:
    return lambda: load_table(place / "tabular")


def _tabular_method(place: Path) -> Callable[[], Any]:
    def read() -> None:
        table = MethodTable(place / "tabular", "shakespeare", "gradient_ascent")
        table.curve(table.nearest({"learning_rate": 1e-3}))
        table.left_out_errors()

    return read


def _trials(*sources: str) -> Call:
    """Whatever a report reads, and its trials, without its statistics."""

    def call(place: Path) -> Callable[[], Any]:
        return lambda: trial_table(load([place / source for source in sources]))

    return call


def _opened(place: Path) -> Callable[[], Any]:
    def call() -> list[Any]:
        study = Study(place / "study")
        return [study.status().as_json(), study.trials, study.rows, study.best, repr(study)]

    return call


def _repaired(place: Path) -> Callable[[], Any]:
    """A repair; a study that it calls repaired can be read."""

    def call() -> None:
        study = Study(place / "study")
        study.repair()
        study.status()

    return call


def _model(name: str) -> Call:
    def call(place: Path) -> Callable[[], Any]:
        spec = ModelSpec(source=str(place / name))
        return lambda: (load_tokenizer(spec), load_model(spec))

    return call


def _checkpoint(place: Path) -> Callable[[], Any]:
    return lambda: TrialState(ON_A_CPU, CONFIG, None, None).read(place / "last.pt", {1, 2, 4})


def _documents(place: Path) -> Callable[[], Any]:
    source = SplitSource(path=str(place / "text/forget.jsonl"), id="id")
    return lambda: list(read_source(source, "data.splits.forget"))


class Impatient(Environment):
    """A machine that waits for no other process's lease."""

    def sleep(self, seconds: float) -> None:
        pass


def _stored(place: Path, *, joined: bool) -> ObjectStorage:
    """A store with the objects that are there; it has no links, folders or pipes."""
    store = MemoryStore()
    for path in sorted((place / "objects").rglob("*")):
        name = path.relative_to(place / "objects").as_posix()
        if path.is_file() and not path.is_symlink() and (joined or "/joined/" not in name):
            obstore.put(store, name, path.read_bytes())
    return ObjectStorage("s3://bucket/study", store=store)


def _read_objects(*, joined: bool) -> Call:
    """A reader that looks twice, as `status --watch` does."""

    def call(place: Path) -> Callable[[], Any]:
        def read() -> None:
            copy = WorkingCopy(_stored(place, joined=joined), place / "copy")
            for _ in range(2):
                copy.refresh()
                read_ledger(place / "copy/ledger")

        return read

    return call


def _continue_objects(*, joined: bool) -> Call:
    """A driver that goes on, once the study is repaired."""

    def call(place: Path) -> Callable[[], Any]:
        def repaired() -> None:
            storage, here = _stored(place, joined=joined), Impatient()
            repair_remote(StudyFiles(storage.url, place / "repaired", storage, here))
            StudyFiles(storage.url, place / "mine", storage, here).open_ledger().close()

        return repaired

    return call


def _guessed(place: Path) -> Callable[[], Any]:
    return lambda: guessed_fields(place / "text/forget.jsonl", "--forget")


READS_A_STUDY: dict[str, Call] = {
    "status": _cli("status", "{}/study"),
    "status --json": _cli("status", "{}/study", "--json"),
    "verify": _cli("verify", "{}/study"),
    "verify --json": _cli("verify", "{}/study", "--json"),
    "open": _opened,
    "trials": _trials("study"),
}
YAML = (m.yaml_values, m.yaml_values, m.yaml_snippets, m.yaml_snippets, *m.BYTES)
JSON = (m.json_values, m.json_values, m.json_values, *m.BYTES)
ENTRANCES = (
    Entrance(
        "study file", ("mine.yaml", "study/study.yaml"), YAML,
        {
            "load": lambda place: lambda: (
                load_study(place / "mine.yaml"), load_study(place / "study/study.yaml")
            ),
            "plan": _cli("plan", "{}/mine.yaml"),
            "verify": _cli("verify", "{}/study"),
        },
        slow=("plan",),
    ),
    Entrance(
        "search space", ("search_spaces/gradient_ascent.yaml", "search_spaces/shared/*.yaml"), YAML,
        {
            "spaces": _cli("spaces", "{}/search_spaces"),
            "load": lambda place: lambda: load_study(place / "mine.yaml"),
        },
    ),
    Entrance(
        "guidelines", ("guidelines.json",), JSON,
        {
            "load": lambda place: lambda: load_guidelines(place / "guidelines.json"),
            "narrow": lambda place: lambda: narrow(
                place / "reference.yaml", place / "guidelines.json", likely=True
            ),
            "diff": _cli("diff", "{}/guidelines.json", "{}/before.json"),
            "why": _cli("why", "{}/guidelines.json"),
        },
    ),
    Entrance(
        "events", ("study/ledger/events.jsonl",),
        (m.ledger_values,) * 6 + (m.ledger_order,) * 2 + m.BYTES,
        READS_A_STUDY | {"repair": _repaired},
    ),
    Entrance(
        "beside the events",
        ("study/ledger/header.json", "study/ledger/lease.json", "study/ledger/acknowledged"),
        (m.json_values, *m.BYTES),
        READS_A_STUDY | {"repair": _repaired},
    ),
    Entrance(
        "objects of a study",
        ("objects/ledger/log/*", "objects/ledger/joined/*", "objects/ledger/*.json"),
        (m.ledger_values,) * 6 + (m.ledger_order,) * 2 + m.BYTES,
        {
            "read": _read_objects(joined=True),
            "read event by event": _read_objects(joined=False),
            "repair": _continue_objects(joined=True),
            "repair event by event": _continue_objects(joined=False),
        },
    ),
    Entrance(
        "live", ("study/live.json",), JSON,
        {name: READS_A_STUDY[name] for name in ("status", "status --json", "open")},
    ),
    Entrance("attacks", ("study/attacks.json",), JSON, {"trials": _trials("study")}),
    Entrance("tasks", (f"study/{TASKS_FILE}",), JSON, {"trials": _trials("study")}),
    Entrance(
        "result table", ("study/ledger/rows.parquet", "tables/rows.parquet"),
        (m.parquet_values,) * 6 + m.BYTES,
        {"verify": _cli("verify", "{}/study"), "trials": _trials("tables/rows.parquet")},
    ),
    Entrance(
        "result table in text", ("csv/rows.csv",), (m.csv_cells,) * 6 + m.BYTES,
        {"trials": _trials("csv/rows.csv")},
    ),
    Entrance(
        "tabular benchmark", ("tabular/table.json", "tabular/shakespeare.parquet"), JSON,
        {"rows": _tabular_rows, "method": _tabular_method},
    ),
    Entrance(
        "foreign table", ("foreign.csv",), (m.csv_cells,) * 6 + m.BYTES,
        {"trials": _trials("foreign.csv")},
    ),
    Entrance(
        "foreign records", ("foreign.jsonl",), (m.json_line_values,) * 6 + m.BYTES,
        {"trials": _trials("foreign.jsonl")},
    ),
    Entrance(
        "foreign list", ("foreign.json",), JSON, {"trials": _trials("foreign.json")}
    ),
    Entrance(
        "Ray Tune's folder", ("tune/*/params.json", "tune/*/result.json"), JSON,
        {"trials": _trials("tune")},
    ),
    Entrance(
        "DeepCAVE's folder",
        ("deepcave/configs.json", "deepcave/meta.json", "deepcave/configspace.json"), JSON,
        {"trials": _trials("deepcave")},
    ),
    Entrance(
        "DeepCAVE's history", ("deepcave/history.jsonl",), (m.json_line_values,) * 6 + m.BYTES,
        {"trials": _trials("deepcave")},
    ),
    Entrance(
        "MLflow's folder", ("mlruns/*/*/meta.yaml", "mlruns/*/meta.yaml"), YAML,
        {"trials": _trials("mlruns")},
    ),
    Entrance(
        "MLflow's values", ("mlruns/*/*/params/*", "mlruns/*/*/metrics/*"), m.BYTES,
        {"trials": _trials("mlruns")},
    ),
    Entrance(
        "OpenUnlearning's folder", ("open_unlearning/*/evals/*.json",), JSON,
        {"trials": _trials("open_unlearning")},
    ),
    Entrance(
        "config and tokenizer of a model",
        ("model/config.json", "model/tokenizer.json", "model/tokenizer_config.json",
         "model/generation_config.json"),
        JSON,
        {"load": _model("model"), "plan": _cli("plan", "{}/mine.yaml")},
        slow=("plan",),
    ),
    Entrance(
        "weights of a model", ("model/model.safetensors",), (m.tensor_header,) * 6 + m.BYTES,
        {"load": _model("model"), "plan": _cli("plan", "{}/mine.yaml")},
        slow=("plan",),
    ),
    Entrance(
        "index of a model", ("sharded/model.safetensors.index.json",), JSON,
        {
            "load": _model("sharded"),
            "check": lambda place: lambda: check_source(ModelSpec(source=str(place / "sharded"))),
        },
    ),
    Entrance("checkpoint", ("last.pt",), m.BYTES, {"read": _checkpoint}),
    Entrance(
        "best weights", ("study/trials/best/*.safetensors",), (m.tensor_header,) * 3 + m.BYTES,
        {"verify": _cli("verify", "{}/study")},
    ),
    Entrance(
        "documents", ("text/forget.jsonl",), (m.json_line_values,) * 6 + m.BYTES,
        {"read": _documents, "guess": _guessed, "plan": _cli("plan", "{}/mine.yaml")},
        slow=("plan",),
    ),
    Entrance(
        "report", ("study/ledger/events.jsonl", "study/attacks.json", f"study/{TASKS_FILE}"),
        (m.ledger_values, m.ledger_order),
        {"report": _report("study"), "cli": _cli("report", "{}/study")},
        slow=("report", "cli"),
    ),
    Entrance(
        "report of a foreign table", ("foreign.csv",), (m.csv_cells,),
        {"report": _report("foreign.csv")}, slow=("report",),
    ),
)  # fmt: skip
BY_NAME = {entrance.name: entrance for entrance in ENTRANCES}


def made_hostile(entrance: Entrance, place: Path, random: Random) -> Path:
    """One of an entrance's files changed; the file."""
    paths = sorted(path for pattern in entrance.files for path in place.glob(pattern))
    path = random.choice(paths)
    if random.random() < 0.06:
        m.moved(path, place.parent / "outside", random)
        return path
    try:
        data = random.choice(entrance.changes)(path.read_bytes(), random)
    except (ValueError, KeyError, TypeError):
        data = m.flipped(path.read_bytes(), random)
    path.write_bytes(data.replace(b"{outside}", str(place.parent / "outside").encode()))
    return path


def called(entrance: Entrance, place: Path, name: str, what: str) -> None:
    """Call one of an entrance's readers under guard."""
    guarded(entrance.calls[name](place), place, what)
