"""The KubeRay manifests, without Kubernetes: what a user would lose to a typo, a rule of the
operator's or a careless default.

Each check is shown to catch planted mistakes: a check that passes everything would be no check."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kuberay_rules import (
    KUBERAY,
    SCHEMAS,
    amount,
    build,
    changed,
    cluster_spec,
    core_problems,
    groups,
    of_kind,
    operator_problems,
    policy_problems,
    schema_problems,
    validators,
)

from ray_unlearn.spec.errors import (
    EXIT_FAILED_TRIALS,
    EXIT_INTERRUPTED,
    EXIT_STORAGE,
    EXIT_WRONG_INPUT,
)
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec

CLUSTER, JOB = KUBERAY / "raycluster", KUBERAY / "rayjob"
ALPHA = [KUBERAY / "overlays" / "kuberay-1.7" / name for name in ("raycluster", "rayjob")]
FOLDERS = [CLUSTER, JOB, *ALPHA]
KUBERNETES = ("1.31", "1.37")
GPU = "/spec/workerGroupSpecs/1"

needs_schemas = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason=f"KubeRay's schemas are not in {SCHEMAS}"
)


def put(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def drop(path: str) -> dict[str, Any]:
    return {"op": "remove", "path": path}


def planted(kind: str, *change: dict[str, Any]) -> list[dict[str, Any]]:
    """Our manifests with a mistake in one of them."""
    return changed(build(JOB if kind == "RayJob" else CLUSTER), kind, *change)


@pytest.fixture(scope="module")
def study() -> StudySpec:
    return load_study(KUBERAY / "base" / "study.yaml")


@pytest.fixture(scope="module")
def kuberay_16() -> Any:
    return validators("1.6.2")


@pytest.fixture(scope="module")
def kuberay_17() -> Any:
    return validators("1.7.0")


def relative(folder: Path) -> str:
    return str(folder.relative_to(KUBERAY))


# --- schemas


@needs_schemas
@pytest.mark.parametrize("folder", [CLUSTER, JOB], ids=relative)
def test_operators_of_both_versions_know_every_field(
    folder: Path, kuberay_16: Any, kuberay_17: Any
) -> None:
    assert schema_problems(build(folder), kuberay_16) == []
    assert schema_problems(build(folder), kuberay_17) == []


@needs_schemas
@pytest.mark.parametrize("folder", ALPHA, ids=relative)
def test_alpha_fields_need_the_newer_operator(
    folder: Path, kuberay_16: Any, kuberay_17: Any
) -> None:
    """The older one would drop them in silence: a cluster without TLS whose owner believes that it
    has some."""
    assert schema_problems(build(folder), kuberay_17) == []
    refused = " ".join(schema_problems(build(folder), kuberay_16))
    for field in ("backend", "storage", "tlsOptions", "networkPolicy"):
        assert f"'{field}'" in refused


SCHEMA_MISTAKES = [
    ("RayCluster", put("/spec/enableInTreeAutoscalling", True), "enableInTreeAutoscalling"),
    ("RayCluster", put("/spec/autoscalerOptions/version", "v3"), "'v3'"),
    ("RayCluster", put("/spec/autoscalerOptions/idleTimeoutSeconds", "600"), "'600'"),
    ("RayCluster", put("/spec/authOptions/mode", "tokens"), "'tokens'"),
    (
        "RayCluster",
        put("/spec/headGroupSpec/rayStartParams/num-cpus", 0),
        "0 is not of type 'string'",
    ),
    ("RayCluster", put("/spec/headGroupSpec/minReplicas", 1), "minReplicas"),
    ("RayCluster", put(f"{GPU}/minReplicas", "0"), "'0'"),
    ("RayCluster", drop(f"{GPU}/groupName"), "groupName"),
    ("RayCluster", put(f"{GPU}/template/spec/toleration", []), "toleration"),
    (
        "RayCluster",
        put(f"{GPU}/template/spec/containers/0/resources/limits/memory", "26GB"),
        "'26GB'",
    ),
    (
        "RayCluster",
        put(f"{GPU}/template/spec/containers/0/securityContext/privileged", "no"),
        "'no'",
    ),
    ("RayCluster", put("/spec/gcsFaultToleranceOptions/redisPassword", "hunter2"), "'hunter2'"),
    (
        "RayCluster",
        put("/spec/headGroupSpec/template/spec/volumes/1/emptyDir/sizelimit", "3Gi"),
        "sizelimit",
    ),
    ("RayJob", put("/spec/shutdownAfterJobFinish", True), "shutdownAfterJobFinish"),
    ("RayJob", put("/spec/backoffLimit", "3"), "'3'"),
    ("RayJob", put("/spec/entrypointResources", {"driver": 1}), "{'driver': 1}"),
    (
        "RayJob",
        put(
            "/spec/submitterPodTemplate/spec/containers/0/securityContext/capabilities/drop", "ALL"
        ),
        "'ALL'",
    ),
    ("RayJob", put("/spec/rayClusterSpec/workerGroupSpecs/0/maxReplica", 2), "maxReplica"),
]


@needs_schemas
@pytest.mark.parametrize(
    ("kind", "change", "expected"), SCHEMA_MISTAKES, ids=lambda value: str(value)[:60]
)
def test_a_typo_or_a_wrong_type_is_found(
    kind: str, change: dict[str, Any], expected: str, kuberay_16: Any, kuberay_17: Any
) -> None:
    for of in (kuberay_16, kuberay_17):
        (found,) = schema_problems(planted(kind, change), of)
        assert expected in found


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_kubernetes_knows_every_field(folder: Path) -> None:
    for version in KUBERNETES:
        assert list(core_problems(build(folder), version)) == []


CORE_MISTAKES = [
    (
        "ServiceAccount",
        put("/automountServiceAccountTokens", False),
        "automountServiceAccountTokens",
    ),
    ("StatefulSet", put("/spec/replicas", "1"), "replicas"),
    ("StatefulSet", put("/spec/template/spec/containers/0/readynessProbe", {}), "readynessProbe"),
    ("StatefulSet", drop("/spec/selector"), "selector"),
    ("Service", put("/spec/ports/0/port", "6379"), "port"),
    ("NetworkPolicy", put("/spec/ingres", []), "ingres"),
    ("NetworkPolicy", put("/spec/policyTypes", "Ingress"), "policyTypes"),
    ("ConfigMap", put("/data/study.yaml", {"name": "x"}), "study.yaml"),
]


@pytest.mark.parametrize(
    ("kind", "change", "expected"), CORE_MISTAKES, ids=lambda value: str(value)[:60]
)
def test_a_mistake_in_kubernetes_own_resources_is_found(
    kind: str, change: dict[str, Any], expected: str
) -> None:
    found = list(core_problems(planted(kind, change), KUBERNETES[-1]))
    assert len(found) == 1
    assert expected in found[0]


# --- the operator's rules


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_the_operator_accepts_them(folder: Path) -> None:
    assert list(operator_problems(build(folder))) == []


OPERATOR_MISTAKES = [
    (
        "RayCluster",
        put("/spec/headGroupSpec/template/spec/restartPolicy", "Always"),
        "head: restartPolicy",
    ),
    (
        "RayCluster",
        put(f"{GPU}/template/spec/restartPolicy", "OnFailure"),
        "spot-gpu: restartPolicy",
    ),
    ("RayCluster", drop("/spec/rayVersion"), "tokens need rayVersion"),
    ("RayCluster", put("/spec/rayVersion", "2.9.3"), "tokens need rayVersion"),
    (
        "RayCluster",
        put("/spec/workerGroupSpecs/0/rayStartParams/num-cpus", "4"),
        "driver: resources both",
    ),
    ("RayCluster", put(f"{GPU}/rayStartParams/labels", "a=b"), "spot-gpu: labels"),
    ("RayCluster", put(f"{GPU}/minReplicas", 5), "minReplicas above maxReplicas"),
    (
        "RayCluster",
        put("/spec/gcsFaultToleranceOptions/backend", "rocksdb"),
        "excludes redisAddress, redisPassword",
    ),
    (
        "RayCluster",
        put("/spec/gcsFaultToleranceOptions/storage", {"size": "1Gi"}),
        "storage is for backend rocksdb",
    ),
    ("RayCluster", put("/metadata/name", "x" * 54), "no name of at most 53"),
    ("RayCluster", put("/metadata/name", "Studies"), "no name of at most 53"),
    ("RayJob", put("/metadata/name", "x" * 48), "no name of at most 47"),
    (
        "RayJob",
        put("/spec/clusterSelector", {"ray.io/cluster": "studies"}),
        "one of rayClusterSpec and clusterSelector",
    ),
    (
        "RayJob",
        put("/spec/deletionStrategy", {"deletionRules": [{"policy": "DeleteSelf"}]}),
        "excludes deletionRules",
    ),
    ("RayJob", put("/spec/shutdownAfterJobFinishes", False), "needs shutdownAfterJobFinishes"),
    ("RayJob", put("/spec/submissionMode", "SidecarMode"), "SidecarMode excludes"),
    ("RayJob", put("/spec/entrypointResources", "driver: 1"), "is no JSON"),
    (
        "RayJob",
        put("/spec/rayClusterSpec/headGroupSpec/template/spec/restartPolicy", "Always"),
        "head: restartPolicy",
    ),
]


@pytest.mark.parametrize(
    ("kind", "change", "expected"), OPERATOR_MISTAKES, ids=lambda value: str(value)[:60]
)
def test_what_the_operator_would_refuse_is_found(
    kind: str, change: dict[str, Any], expected: str
) -> None:
    found = list(operator_problems(planted(kind, change)))
    assert any(expected in problem for problem in found), found


def test_retries_and_a_cluster_of_others_exclude_each_other() -> None:
    selector = put("/spec/clusterSelector", {"ray.io/cluster": "studies"})
    found = list(operator_problems(planted("RayJob", drop("/spec/rayClusterSpec"), selector)))
    assert found == ["backoffLimit excludes clusterSelector"]


ALPHA_MISTAKES = [
    (put("/spec/gcsFaultToleranceOptions/redisAddress", "redis:6379"), "excludes redisAddress"),
    (
        put("/spec/gcsFaultToleranceOptions/storage/claimName", "mine"),
        "storage.claimName excludes size",
    ),
    (
        put("/spec/networkPolicy/mode", "DenyAllEgress"),
        "networkPolicy.head.ingressRules with mode DenyAllEgress",
    ),
    (put("/spec/networkPolicy/worker", {"egressRules": []}), "networkPolicy.worker.egressRules"),
    (put("/spec/networkPolicy/workerGroups", [{"groupName": "gpu"}]), "no group gpu"),
]


@pytest.mark.parametrize(("change", "expected"), ALPHA_MISTAKES, ids=lambda value: str(value)[:60])
def test_what_the_operator_would_refuse_of_the_overlay_is_found(
    change: dict[str, Any], expected: str
) -> None:
    (found,) = operator_problems(changed(build(ALPHA[0]), "RayCluster", change))
    assert expected in found


def test_the_operator_is_told_to_do_what_the_overlay_asks_for() -> None:
    """Of a field behind a closed feature gate the operator makes an error, and of the cluster
    nothing."""
    values = yaml.safe_load((ALPHA[0].parent / "operator.yaml").read_text())
    given = {gate["name"] for gate in values["featureGates"] if gate["enabled"]}
    for folder in ALPHA:
        (manifest,) = of_kind(build(folder), "RayCluster", "RayJob")
        spec = cluster_spec(manifest)
        asked = {
            "GCSFaultToleranceEmbeddedStorage": spec["gcsFaultToleranceOptions"]["backend"]
            == "rocksdb",
            "RayClusterMTLS": spec["tlsOptions"]["enabled"],
            "RayClusterNetworkPolicy": "networkPolicy" in spec,
        }
        assert given == {gate for gate, wanted in asked.items() if wanted}


# --- our policy


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_policy_holds(folder: Path, study: StudySpec) -> None:
    assert list(policy_problems(build(folder), study.operations.grace_s)) == []


HEAD, DRIVER = "/spec/headGroupSpec/template/spec", "/spec/workerGroupSpecs/0/template/spec"
LANES = f"{GPU}/template/spec"
POLICY_MISTAKES = [
    ("RayCluster", put("/spec/authOptions/mode", "disabled"), "no token"),
    ("RayCluster", drop("/spec/authOptions"), "no token"),
    ("RayCluster", put("/spec/headGroupSpec/rayStartParams/num-cpus", "4"), "head: has CPUs"),
    ("RayCluster", put("/spec/headGroupSpec/enableIngress", True), "head: reachable"),
    ("RayCluster", put("/spec/headGroupSpec/serviceType", "LoadBalancer"), "head: reachable"),
    ("RayCluster", put("/spec/autoscalerOptions/version", "v1"), "no autoscaler v2"),
    (
        "RayCluster",
        drop("/spec/autoscalerOptions/securityContext"),
        "autoscaler: may gain privileges",
    ),
    ("RayCluster", drop("/spec/autoscalerOptions/volumeMounts"), "autoscaler: has no token"),
    (
        "RayCluster",
        put("/spec/gcsFaultToleranceOptions/redisPassword", {"value": "x"}),
        "password not from a Secret",
    ),
    ("RayCluster", put(f"{HEAD}/containers/0/image", "rayproject/ray:latest"), "not pinned"),
    ("RayCluster", put(f"{LANES}/containers/0/image", "rayproject/ray"), "not pinned"),
    (
        "RayCluster",
        put(f"{LANES}/containers/0/image", "registry.example.org:5000/ray-unlearn"),
        "not pinned",
    ),
    (
        "RayCluster",
        put(f"{LANES}/securityContext/runAsNonRoot", False),
        "spot-gpu: may run as root",
    ),
    (
        "RayCluster",
        put(f"{LANES}/containers/0/securityContext/runAsUser", 0),
        "spot-gpu: may run as root",
    ),
    ("RayCluster", drop(f"{HEAD}/securityContext/seccompProfile"), "head: no seccomp profile"),
    (
        "RayCluster",
        put(f"{DRIVER}/containers/0/securityContext/allowPrivilegeEscalation", True),
        "gain privileges",
    ),
    (
        "RayCluster",
        put(f"{LANES}/containers/0/securityContext/capabilities/add", ["SYS_PTRACE"]),
        "capabilities",
    ),
    ("RayCluster", put(f"{LANES}/hostNetwork", True), "host's namespaces"),
    (
        "RayCluster",
        put(f"{LANES}/volumes/-", {"name": "nvme", "hostPath": {"path": "/mnt"}}),
        "path of the host",
    ),
    ("RayCluster", put(f"{HEAD}/automountServiceAccountToken", True), "head: mounts a token"),
    ("RayCluster", put(f"{DRIVER}/serviceAccountName", "studie"), "no ServiceAccount studie"),
    (
        "RayCluster",
        put(
            f"{HEAD}/containers/0/volumeMounts/-",
            {"name": "kubernetes-api", "mountPath": "/x/serviceaccount"},
        ),
        "for the autoscaler alone",
    ),
    (
        "RayCluster",
        put(f"{DRIVER}/containers/0/env/-", {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
        "AWS_SECRET_ACCESS_KEY stands in the file",
    ),
    ("RayCluster", put(f"{LANES}/containers/0/resources/requests/memory", "8Gi"), "must be equal"),
    ("RayCluster", drop(f"{LANES}/volumes/1"), "no volume shared-mem"),
    (
        "RayCluster",
        put(f"{LANES}/volumes/1/emptyDir/sizeLimit", "64Mi"),
        "/dev/shm: 0% of the memory",
    ),
    (
        "RayCluster",
        put(f"{LANES}/volumes/1/emptyDir", {"sizeLimit": "9Gi"}),
        "/dev/shm is no volume",
    ),
    ("RayCluster", drop(f"{LANES}/volumes/0/emptyDir/sizeLimit"), "/tmp is no volume with a limit"),
    ("RayCluster", put(f"{DRIVER}/terminationGracePeriodSeconds", 30), "too short to stop a study"),
    ("RayCluster", drop(f"{HEAD}/containers/0/lifecycle"), "head: preStop"),
    (
        "RayCluster",
        put(f"{LANES}/containers/0/lifecycle/preStop/exec/command", ["sleep 5"]),
        "spot-gpu: preStop",
    ),
    ("RayCluster", drop(f"{DRIVER}/containers/0/env/1"), "driver: RAY_JOB_STOP_WAIT_TIME_S"),
    ("RayCluster", put(f"{GPU}/minReplicas", 1), "spot-gpu: minReplicas"),
    ("RayCluster", drop(f"{LANES}/affinity"), "not bound to spot nodes"),
    ("RayCluster", drop(f"{LANES}/tolerations/0"), "does not tolerate GPU nodes"),
    ("RayCluster", drop(f"{HEAD}/affinity"), "head: may land on a spot node"),
    ("RayCluster", put("/metadata/namespace", "default"), "in namespace default"),
    (
        "RayJob",
        drop("/spec/submitterPodTemplate/spec/securityContext"),
        "submitter: may run as root",
    ),
    ("RayJob", drop("/spec/rayClusterSpec/authOptions/secretName"), "no token"),
    ("Service", put("/spec/type", "NodePort"), "Service redis: reachable from outside"),
    ("StatefulSet", put("/spec/template/spec/containers/0/image", "redis:7"), "not pinned"),
    (
        "StatefulSet",
        put(
            "/spec/template/spec/containers/0/env/0", {"name": "REDIS_PASSWORD", "value": "hunter2"}
        ),
        "REDIS_PASSWORD stands in the file",
    ),
    (
        "ServiceAccount",
        drop("/automountServiceAccountToken"),
        "mounts a token for the Kubernetes API",
    ),
    (
        "NetworkPolicy",
        put("/spec/podSelector", {"matchLabels": {"a": "b"}}),
        "no NetworkPolicy closes the namespace",
    ),
    ("NetworkPolicy", put("/spec/ingress", [{}]), "open to the world"),
    (
        "NetworkPolicy",
        put("/spec/ingress/0/from/-", {"ipBlock": {"cidr": "0.0.0.0/0"}}),
        "open to the world",
    ),
    (
        "NetworkPolicy",
        put("/spec/ingress/0/from/-", {"namespaceSelector": {}}),
        "open to every namespace",
    ),
]


@pytest.mark.parametrize(
    ("kind", "change", "expected"), POLICY_MISTAKES, ids=lambda value: str(value)[:60]
)
def test_what_policy_forbids_is_found(
    kind: str, change: dict[str, Any], expected: str, study: StudySpec
) -> None:
    found = list(policy_problems(planted(kind, change), study.operations.grace_s))
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize("kind", ["Secret", "Ingress", "ClusterRoleBinding"])
def test_a_resource_that_must_not_be_there_is_found(kind: str) -> None:
    stray = {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "x", "namespace": "ray-unlearn"},
    }
    (found,) = policy_problems([*build(CLUSTER), stray], 20)
    assert found.startswith(f"{kind} x")


def test_a_longer_grace_period_of_a_study_is_found_to_be_too_long_for_the_pods() -> None:
    found = list(policy_problems(build(JOB), grace_s=70))
    assert sum("too short to stop a study" in problem for problem in found) == 3


def test_the_driver_is_told_its_credentials_by_nobody_but_the_cloud(study: StudySpec) -> None:
    """The bucket's identity is for pods that run studies; the head, which can scale the cluster,
    has none."""
    accounts = {
        m["metadata"]["name"]: m["metadata"].get("annotations", {})
        for m in build(JOB)
        if m["kind"] == "ServiceAccount"
    }
    used = {
        name: group["template"]["spec"]["serviceAccountName"]
        for name, group in groups(cluster_spec(build(JOB)[-1]))
    }
    assert used == {"head": "ray-head", "driver": "study", "spot-gpu": "study"}
    assert {name: len(found) for name, found in accounts.items()} == {
        "study": 2,
        "ray-head": 0,
        "nothing": 0,
    }


# --- what Ray makes of it


def resources(kind: str, *change: dict[str, Any]) -> dict[str, Any]:
    """Node types as Ray's autoscaler derives them."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr as derive,
    )

    (manifest,) = of_kind(planted(kind, *change), kind)
    config = derive({"metadata": manifest["metadata"], "spec": cluster_spec(manifest)})
    return {
        name: (t["min_workers"], t["max_workers"], t["resources"])
        for name, t in config["available_node_types"].items()
    }


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_the_autoscaler_sees_a_head_without_cpus_drivers_and_gpus_from_nothing(kind: str) -> None:
    assert resources(kind) == {
        "headgroup": (0, 0, {"CPU": 0, "memory": 8 * 2**30}),
        "driver": (0, 2, {"CPU": 4, "memory": 16 * 2**30, "driver": 1}),
        "spot-gpu": (0, 4, {"CPU": 7, "GPU": 1, "memory": 26 * 2**30}),
    }


def test_the_autoscaler_is_asked_and_not_ourselves() -> None:
    """Planted: a head that computes, and lanes without a GPU, which would wait for ever."""
    assert (
        resources("RayCluster", drop("/spec/headGroupSpec/rayStartParams/num-cpus"))["headgroup"][
            2
        ]["CPU"]
        == 2
    )
    limits = f"{LANES}/containers/0/resources/limits/nvidia.com~1gpu"
    requests = limits.replace("limits", "requests")
    assert "GPU" not in resources("RayCluster", drop(limits), drop(requests))["spot-gpu"][2]


def test_the_study_fits_the_cluster(study: StudySpec) -> None:
    operations = study.operations
    (_, most, lane), (_, _, driver) = (resources("RayJob")[name] for name in ("spot-gpu", "driver"))
    assert operations.workers_per_lane * operations.gpus_per_worker <= lane["GPU"]
    assert operations.workers_per_lane * operations.cpus_per_worker <= lane["CPU"]
    assert (operations.lanes, operations.max_lanes) == ("auto", most)
    (job,) = of_kind(build(JOB), "RayJob")
    wanted = json.loads(job["spec"]["entrypointResources"])
    assert all(driver.get(name, 0) >= value for name, value in wanted.items())
    assert not set(wanted) & set(lane), "the driver must not land on a spot node"


def test_the_job_has_the_cluster_that_stands() -> None:
    (cluster,), (job,) = of_kind(build(CLUSTER), "RayCluster"), of_kind(build(JOB), "RayJob")
    assert cluster_spec(job) == cluster_spec(cluster)
    submitter = job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"]
    images = {
        group["template"]["spec"]["containers"][0]["image"]
        for _, group in groups(cluster_spec(job))
    }
    assert images == {submitter}


def test_memory_that_a_container_must_not_exceed_is_read_as_kubernetes_reads_it() -> None:
    assert [amount(q) for q in ("8Gi", "500m", "2", 3, "1.5k")] == [8 * 2**30, 0.5, 2, 3, 1500]


# --- what runs in the pods


def entrypoint(tmp_path: Path, code: int) -> tuple[int, list[str]]:
    """Runs the job's command through the shells on its way (the submitter's, then Ray's) with a
    stand-in for ray-unlearn."""
    (job,) = of_kind(build(JOB), "RayJob")
    command = job["spec"]["entrypoint"]
    stand_in = tmp_path / "ray-unlearn"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/given\nexit {code}\n')
    stand_in.chmod(0o755)
    submitted = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], check=True, capture_output=True, text=True
    ).stdout.split("\0")[:-1]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        shlex.join(submitted), shell=True, executable="/bin/bash", env=environment, check=False
    )
    return done.returncode, (tmp_path / "given").read_text().splitlines()


@pytest.mark.parametrize(
    ("code", "again"),
    [
        (0, False),
        (EXIT_FAILED_TRIALS, False),
        (EXIT_WRONG_INPUT, True),
        (EXIT_STORAGE, True),
        (EXIT_INTERRUPTED, True),
    ],
)
def test_a_study_with_failed_trials_is_finished_and_everything_else_is_tried_again(
    code: int, again: bool, tmp_path: Path
) -> None:
    """Three more clusters would be started for trials that fail for good; and none for a driver
    that was told to stop."""
    ended, _ = entrypoint(tmp_path, code)
    assert (ended != 0) == again


def test_the_job_goes_on_with_a_study_that_is_there(tmp_path: Path, study: StudySpec) -> None:
    import typer

    from ray_unlearn.cli.main import app

    _, (command, *arguments) = entrypoint(tmp_path, 0)
    given = typer.main.get_command(app).commands[command].make_context(command, arguments).params  # type: ignore[attr-defined]
    assert command == "run"
    assert given["go_on"] is True
    assert given["study"] == Path("/studies/study.yaml")
    assert given["storage"] == f"s3://BUCKET/studies/{study.name}"


def hook(group: str) -> list[str]:
    """The command that a pod of this group runs before it is told to end."""
    found = dict(groups(cluster_spec(of_kind(build(JOB), "RayJob")[0])))[group]
    return found["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]


def test_a_gpu_node_that_goes_is_drained_first(tmp_path: Path) -> None:
    """The project takes lanes off nodes that Ray drains: the command must be one that Ray knows."""
    from ray.scripts.scripts import drain_node

    for name in ("ray", "sleep"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/{name}.given\n')
        (tmp_path / name).chmod(0o755)
    subprocess.run(
        hook("spot-gpu"), env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True
    )
    command, *arguments = (tmp_path / "ray.given").read_text().splitlines()
    given = drain_node.make_context(command, arguments).params
    assert command == "drain-node"
    assert given["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert given["deadline_remaining_seconds"] == int((tmp_path / "sleep.given").read_text())
    assert given["node_id"] is None


DRIVER_THAT_TAKES_ITS_TIME = """
import pathlib, signal, sys, time
def told(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text("checkpoint")
    sys.exit(130)
signal.signal(signal.SIGTERM, told)
print("ready", flush=True)
time.sleep(60)
"""


def alone() -> list[str]:
    """The start of a command that sees no processes but its own: the hook signals by name, and
    others run here."""
    return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def can_be_alone() -> bool:
    if shutil.which("unshare") is None:
        return False
    seen = subprocess.run([*alone(), "ls", "/proc"], capture_output=True, text=True, check=False)
    return seen.returncode == 0 and [name for name in seen.stdout.split() if name.isdigit()] == [
        "1"
    ]


@pytest.mark.root
@pytest.mark.skipif(
    sys.platform != "linux" or not can_be_alone(), reason="needs root and process namespaces"
)
def test_a_driver_is_told_to_stop_and_waited_for(tmp_path: Path) -> None:
    program, note = tmp_path / "bin" / "ray-unlearn", tmp_path / "note"
    program.parent.mkdir()
    program.write_text(DRIVER_THAT_TAKES_ITS_TIME)
    # As in the pod: the job's shell, the driver below it, and the hook beside them.
    inside = f"bash -c '{sys.executable} {program} {note} || test $? -eq 3' & sleep 0.5; {shlex.join(hook('driver'))}; cat {note}"
    done = subprocess.run(
        [*alone(), "bash", "-c", inside], capture_output=True, text=True, check=False, timeout=40
    )
    assert done.stdout.split() == ["ready", "checkpoint"], done.stderr


# --- kustomize


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_kustomize_builds_what_is_checked_here(folder: Path) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    )

    def key(manifest: dict[str, Any]) -> tuple[str, str]:
        return manifest["kind"], manifest["metadata"]["name"]

    built = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert sorted(built, key=key) == sorted(build(folder), key=key)
