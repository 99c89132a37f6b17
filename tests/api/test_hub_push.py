"""`export --push`: the hub's own client against a hub on this machine (`fake_hub`).

What is refused is refused before a model is made, and what fails loses nothing.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import READ_ONLY, TOKEN, FakeHub, Repository, running_hub
from test_model_export import BASE, FEASIBLE, stored_study

import ray_unlearn as ru


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the client of this process asks, with a token that may write."""
    from huggingface_hub import constants

    with running_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ru.Study:
    return ru.open(stored_study(tmp_path_factory.mktemp("hub") / "study"))


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_is_uploaded_whole_into_a_private_repository(
    hub: FakeHub, study: ru.Study, tmp_path: Path
) -> None:
    said: list[str] = []
    study.export(tmp_path / "model", FEASIBLE, push="me/forgetful", say=said.append)
    found = hub.repositories["me/forgetful"]
    assert found.private
    assert found.files == {".gitattributes": b"", **files_in(tmp_path / "model")}
    assert said[-1] == f"uploaded: {hub.url}/me/forgetful"


def test_an_upload_that_fails_leaves_the_folder_and_says_the_command_that_goes_on(
    hub: FakeHub, study: ru.Study, tmp_path: Path
) -> None:
    hub.refuses_commits = True
    with pytest.raises(ru.UserError) as failed:
        study.export(tmp_path / "my model", FEASIBLE, push="lab/forgetful", say=lambda text: None)
    text = str(failed.value)
    assert "Your storage is full" in text
    assert failed.value.exit_code == 4
    whole = files_in(tmp_path / "my model")
    assert {"config.json", "model.safetensors", "README.md"} <= whole.keys()

    hub.refuses_commits = False
    program, *arguments = shlex.split(text.split("`")[1])
    assert program == "hf"
    subprocess.run(
        [Path(sys.executable).parent / "hf", *arguments],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    assert hub.repositories["lab/forgetful"].private
    assert hub.repositories["lab/forgetful"].files == {".gitattributes": b"", **whole}


def refused(study: ru.Study, output: Path, **how: Any) -> str:
    said: list[str] = []
    with pytest.raises(ru.UserError) as found:
        study.export(output, FEASIBLE, **{"push": "me/forgetful"} | how, say=said.append)
    assert said == [], "before the model is made"
    assert not output.exists()
    return str(found.value)


def test_without_a_token_it_is_refused(
    hub: FakeHub, study: ru.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert "there is no token for the hub; run `hf auth login`" in refused(study, tmp_path / "m")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the hub refuses the token" in refused(study, tmp_path / "m")
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    assert "the token may only read" in refused(study, tmp_path / "m")
    assert hub.repositories == {}


def test_without_a_network_it_is_refused(
    hub: FakeHub, study: ru.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub does not answer (ConnectError" in refused(study, tmp_path / "m")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(study, tmp_path / "m")


@pytest.mark.parametrize("name", ["forgetful", "a/b/c", "me/for getful", "me/..", "/me/x"])
def test_what_is_no_hub_id_is_refused(
    hub: FakeHub, study: ru.Study, tmp_path: Path, name: str
) -> None:
    assert "not a hub id; write OWNER/NAME" in refused(study, tmp_path / "m", push=name)


def test_what_would_mix_models_show_them_or_be_anothers_is_refused(
    hub: FakeHub, study: ru.Study, tmp_path: Path
) -> None:
    hub.repositories["me/old"] = Repository(True, {"model.safetensors": b"old"})
    hub.repositories["me/open"] = Repository(False)
    assert "has files (model.safetensors)" in refused(study, tmp_path / "m", push="me/old")
    assert "is public; give --public" in refused(study, tmp_path / "m", push="me/open")
    assert "can write to: me, lab" in refused(study, tmp_path / "m", push="them/model")


def test_adapters_of_a_model_that_nobody_else_has_are_refused(hub: FakeHub) -> None:
    from ray_unlearn.spec.model_spec import ModelSpec
    from ray_unlearn.unlearn.hub_push import check_push

    with pytest.raises(ru.UserError, match="on this machine alone; use `--form merged`"):
        check_push("me/forgetful", False, ModelSpec(source=str(BASE)), "adapter")
    check_push("me/forgetful", False, ModelSpec(source="owner/base"), "adapter")


def test_a_public_model_is_uploaded_where_it_is_asked_for(hub: FakeHub, tmp_path: Path) -> None:
    from ray_unlearn.unlearn.hub_push import push

    shutil.copytree(BASE, tmp_path / "model")
    push(tmp_path / "model", "me/open", True, lambda text: None)
    assert not hub.repositories["me/open"].private
