"""A cluster that starts from nothing: Ray's autoscaler, with nodes that are processes, grows for a
study's lanes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hosts import Hosts, unavailable
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from test_hosts import QUICK, RAY_START, start_node
from tiny import study_file

from ray_unlearn.store.verify import verify

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(unavailable()), reason=unavailable()),
]
PORT = 6379


def growing(most: int) -> dict[str, Any]:
    """A head without CPUs, and nodes of one CPU, none at first: in Ray's words."""
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    node = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": most}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    commands = (
        "initialization",
        "setup",
        "head_setup",
        "worker_setup",
        "head_start_ray",
        "worker_start_ray",
    )
    return {
        "cluster_name": "growing",
        "max_workers": most,
        "provider": {
            "type": "external",
            "module": provider,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "available_node_types": {"ray.head.default": head, "node": node},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 1,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
    } | {f"{name}_commands": [] for name in commands}


def test_a_study_makes_its_cluster_grow(tmp_path: Path, text_files: Path, tiny_model: Path) -> None:
    """Refused where nothing says that the cluster grows; complete where the study file does."""
    folder = tmp_path / "study"
    tmp_path.chmod(0o755)
    operations = {"lanes": "auto", "max_lanes": 2, "tensorboard": False}
    study = study_file(tmp_path, text_files, tiny_model, operations=operations)
    with Hosts(1, shared=[tmp_path, text_files, tiny_model]) as [host]:
        host.write("/tmp/growing.json", json.dumps(growing(2)))
        head = [
            "--head",
            f"--port={PORT}",
            "--num-cpus=0",
            "--include-dashboard=false",
            f"--node-ip-address={host.address}",
        ]
        fake = {
            "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }  # fmt: skip
        start_node(
            host, [*RAY_START, *head, "--autoscaling-config=/tmp/growing.json"], **QUICK, **fake
        )
        command = [
            "ray-unlearn",
            "run",
            str(study),
            "--address",
            f"{host.address}:{PORT}",
            "--quiet",
            "--resume",
        ]
        refused = host.run(*command, "--storage", f"{folder}-0", check=False, timeout_s=300)
        assert refused.returncode == 2, refused.stdout
        assert "the largest node has 0 CPU" in refused.stdout
        assert "operations.autoscaling: true" in refused.stdout
        study_file(tmp_path, text_files, tiny_model, operations=operations | {"autoscaling": True})
        host.run(*command, "--storage", str(folder), timeout_s=900)
    found = verify(folder)
    assert (found.problems, found.complete, found.trials) == ([], True, 4)
