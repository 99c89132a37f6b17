"""What is wrong with Kubernetes manifests, found without Kubernetes: schemas, the operator's rules,
our own policy."""

import json
import lzma
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import kubernetes_validate
import yaml

Manifest = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERAY = REPOSITORY / "cluster" / "kuberay"
SCHEMAS = REPOSITORY.parent / "shared" / "kuberay"
NAMESPACE = "ray-unlearn"

RAY_WITH_TOKENS = (2, 52)
LONGEST_NAME = {"RayCluster": 53, "RayJob": 47}
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|CREDENTIAL|(ACCESS|API)_?KEY", re.IGNORECASE)
UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


# --- manifests as kustomize builds them


@cache
def build(folder: Path) -> list[Manifest]:
    """What `kustomize build` makes of a folder, of the few things that ours use; everything else is
    refused."""
    return _built([], folder)


def _built(manifests: list[Manifest], folder: Path) -> list[Manifest]:
    content = yaml.safe_load((folder / "kustomization.yaml").read_text())
    for name in content.pop("resources", []):
        found = folder / name
        manifests = manifests + (build(found) if found.is_dir() else _documents(found))
    names = content.pop("generatorOptions", {})
    for generated in content.pop("configMapGenerator", []):
        assert names == {"disableNameSuffixHash": True}
        data = {name: (folder / name).read_text() for name in generated["files"]}
        metadata = {"name": generated["name"], "namespace": generated["namespace"]}
        manifests = [
            *manifests,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data},
        ]
    for name in content.pop("components", []):
        manifests = _built(manifests, folder / name)
    for patch in content.pop("patches", []):
        change = yaml.safe_load(
            patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
        )
        manifests = _patched(manifests, change, patch.get("target", {}))
    left = set(content) - {"apiVersion", "kind"}
    assert not left, f"{folder}: {left} is not understood here"
    return manifests


def _documents(file: Path) -> list[Manifest]:
    # Through JSON: what an alias repeats becomes a copy, and a patch to one is no patch to all.
    return [
        json.loads(json.dumps(document))
        for document in yaml.safe_load_all(file.read_text())
        if document
    ]


def _patched(manifests: list[Manifest], change: Any, target: dict[str, str]) -> list[Manifest]:
    if isinstance(change, list):
        hit = [m for m in manifests if m["kind"] == target["kind"]]
        assert hit, f"nothing to patch: {target}"
        return [jsonpatch.apply_patch(m, change) if m in hit else m for m in manifests]
    assert change.pop("$patch") == "delete"
    kept = [
        m
        for m in manifests
        if any(m[key] != change[key] for key in ("kind", "apiVersion", "metadata"))
    ]
    assert len(kept) == len(manifests) - 1, f"nothing to delete: {change}"
    return kept


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def cluster_spec(manifest: Manifest) -> Manifest:
    """The cluster in a RayCluster or a RayJob."""
    return (
        manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]
    )


def groups(spec: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Head and worker groups, by name."""
    yield "head", spec["headGroupSpec"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group


def pods(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Pod specs, by what they are for."""
    if manifest["kind"] in ("RayCluster", "RayJob"):
        for name, group in groups(cluster_spec(manifest)):
            yield name, group["template"]["spec"]
    if manifest["kind"] == "RayJob" and "submitterPodTemplate" in manifest["spec"]:
        yield "submitter", manifest["spec"]["submitterPodTemplate"]["spec"]
    if manifest["kind"] in ("StatefulSet", "Deployment"):
        pod = manifest["spec"]["template"]["spec"]
        claims = [
            {"name": claim["metadata"]["name"]}
            for claim in manifest["spec"].get("volumeClaimTemplates", [])
        ]
        yield manifest["metadata"]["name"], pod | {"volumes": [*pod.get("volumes", []), *claims]}


def amount(quantity: str | int) -> float:
    """A Kubernetes quantity: `8Gi` -> 8589934592, `500m` -> 0.5."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity)).groups()
    return float(number) / 1000 if unit == "m" else float(number) * UNITS[unit]


# --- schemas


def strict(schema: Any) -> Any:
    """A custom resource's schema as JSON Schema in which a field that is not listed is wrong, as
    the API server prunes it."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string") and "anyOf" not in made:
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    open_ended = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if (
        isinstance(schema.get("properties"), dict)
        and made.get("type") == "object"
        and not open_ended
    ):
        made["additionalProperties"] = False
    return made


def validators(version: str) -> dict[str, jsonschema.Draft202012Validator]:
    """Of KubeRay's resources, by kind."""
    found = {}
    for kind in ("RayCluster", "RayJob"):
        definition = yaml.load(
            lzma.decompress((SCHEMAS / f"v{version}-{kind.lower()}s.yaml.xz").read_bytes()),
            getattr(yaml, "CSafeLoader", yaml.SafeLoader),
        )
        (v1,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
        found[kind] = jsonschema.Draft202012Validator(strict(v1["schema"]["openAPIV3Schema"]))
    return found


def schema_problems(
    manifests: list[Manifest], of: dict[str, jsonschema.Draft202012Validator]
) -> list[str]:
    """Of KubeRay's resources: unknown fields and wrong types."""
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for manifest in of_kind(manifests, *of)
        for error in of[manifest["kind"]].iter_errors(manifest)
    ]


def core_problems(manifests: list[Manifest], kubernetes: str) -> Iterator[str]:
    """Of Kubernetes' own resources: the same."""
    for manifest in manifests:
        if not manifest["apiVersion"].startswith("ray.io/"):
            try:
                kubernetes_validate.validate(manifest, kubernetes, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{manifest['kind']}: {'.'.join(map(str, error.path))}: {error.message}"


# --- the operator's rules: what it refuses although the schema allows it (its validation.go, 1.6.2
# and 1.7.0)


def operator_problems(manifests: list[Manifest]) -> Iterator[str]:
    for manifest in of_kind(manifests, "RayCluster", "RayJob"):
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if len(name) > LONGEST_NAME[kind] or not NAME.fullmatch(name):
            yield f"{kind} {name}: no name of at most {LONGEST_NAME[kind]} letters, digits and dashes"
        if kind == "RayJob":
            yield from _job_problems(manifest["spec"])
        if kind == "RayCluster" or "rayClusterSpec" in manifest["spec"]:
            yield from _cluster_problems(cluster_spec(manifest))


def _job_problems(spec: Manifest) -> Iterator[str]:
    shutdown, rules = (
        spec.get("shutdownAfterJobFinishes", False),
        spec.get("deletionStrategy", {}).get("deletionRules"),
    )
    if ("clusterSelector" in spec) == ("rayClusterSpec" in spec):
        yield "one of rayClusterSpec and clusterSelector"
    if "clusterSelector" in spec and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit excludes clusterSelector"
    if shutdown and rules:
        yield "shutdownAfterJobFinishes excludes deletionRules"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("submissionMode") == "SidecarMode" and {
        "submitterPodTemplate",
        "submitterConfig",
    } & set(spec):
        yield "SidecarMode excludes submitterPodTemplate and submitterConfig"
    try:
        json.loads(spec.get("entrypointResources", "{}"))
    except ValueError:
        yield "entrypointResources is no JSON"


def _cluster_problems(spec: Manifest) -> Iterator[str]:
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    head_environment = {variable["name"] for variable in head.get("env", [])}
    v2 = (
        spec.get("enableInTreeAutoscaling")
        and spec.get("autoscalerOptions", {}).get("version") == "v2"
    )
    for name, group in groups(spec):
        if v2 and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: restartPolicy must be Never or unset with autoscaler v2"
        if group.get("minReplicas", 0) > group.get("maxReplicas", 0):
            yield f"{name}: minReplicas above maxReplicas"
        parameters = group.get("rayStartParams", {})
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(
            parameters
        ):
            yield f"{name}: resources both in rayStartParams and beside them"
        if "labels" in parameters:
            yield f"{name}: labels belong beside rayStartParams"
    if spec.get("authOptions", {}).get("mode") == "token":
        version = tuple(int(part) for part in spec.get("rayVersion", "0").split(".")[:2])
        if version < RAY_WITH_TOKENS:
            yield "tokens need rayVersion, 2.52 or newer"
    if v2 and "RAY_enable_autoscaler_v2" in head_environment:
        yield "RAY_enable_autoscaler_v2 beside autoscalerOptions.version"
    yield from _fault_tolerance_problems(spec, head_environment)
    if "networkPolicy" in spec:
        yield from _policy_mode_problems(spec)


def _fault_tolerance_problems(spec: Manifest, head_environment: set[str]) -> Iterator[str]:
    options = spec.get("gcsFaultToleranceOptions")
    if options is None:
        if "RAY_REDIS_ADDRESS" in head_environment:
            yield "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
        return
    if {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"} & head_environment:
        yield "Redis in the head's env beside gcsFaultToleranceOptions"
    if "redis-password" in spec["headGroupSpec"].get("rayStartParams", {}):
        yield "redis-password beside gcsFaultToleranceOptions"
    redis = {"redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace"} & set(
        options
    )
    if options.get("backend") == "rocksdb" and redis:
        yield f"backend rocksdb excludes {', '.join(sorted(redis))}"
    if options.get("backend", "redis") == "redis" and "storage" in options:
        yield "storage is for backend rocksdb"
    storage = options.get("storage", {})
    if "claimName" in storage and {"size", "storageClassName", "accessModes"} & set(storage):
        yield "storage.claimName excludes size, storageClassName and accessModes"


def _policy_mode_problems(spec: Manifest) -> Iterator[str]:
    policy = spec["networkPolicy"]
    unused = {"DenyAllEgress": "ingressRules", "DenyAllIngress": "egressRules"}.get(
        policy.get("mode", "DenyAll")
    )
    named = {rules["groupName"]: rules for rules in policy.get("workerGroups", [])}
    for where, rules in [
        ("head", policy.get("head", {})),
        ("worker", policy.get("worker", {})),
        *named.items(),
    ]:
        if unused in rules:
            yield f"networkPolicy.{where}.{unused} with mode {policy['mode']}"
    if unknown := set(named) - {name for name, _ in groups(spec)}:
        yield f"networkPolicy.workerGroups: no group {', '.join(sorted(unknown))}"


# --- our own policy


def policy_problems(manifests: list[Manifest], grace_s: float) -> Iterator[str]:
    """Secrets, privileges, exposure, and whether a study survives: `grace_s` is what it takes to
    stop one."""
    accounts = {m["metadata"]["name"]: m for m in of_kind(manifests, "ServiceAccount")}
    for manifest in manifests:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind == "Secret":
            yield f"Secret {name}: a secret in a file"
        if kind in ("Ingress", "Route", "HTTPRoute", "ClusterRole", "ClusterRoleBinding"):
            yield f"{kind} {name}: not wanted here"
        if kind == "Service" and manifest["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"Service {name}: reachable from outside"
        if kind not in ("Namespace", "ClusterRole", "ClusterRoleBinding"):
            where = manifest["metadata"].get("namespace")
            if where != NAMESPACE:
                yield f"{kind} {name}: in namespace {where}"
        for pod_name, pod in pods(manifest):
            for problem in _pod_problems(pod, accounts):
                yield f"{pod_name}: {problem}"
        if kind in ("RayCluster", "RayJob"):
            yield from _cluster_policy_problems(cluster_spec(manifest), grace_s)
    for account in accounts.values():
        if account.get("automountServiceAccountToken", True):
            yield f"ServiceAccount {account['metadata']['name']}: mounts a token for the Kubernetes API"
    closed = [
        m for m in of_kind(manifests, "NetworkPolicy") if "Ingress" in m["spec"]["policyTypes"]
    ]
    if not any(set(policy["spec"]["podSelector"]) <= {"matchExpressions"} for policy in closed):
        yield "no NetworkPolicy closes the namespace"
    for policy in closed:
        for rule in policy["spec"].get("ingress", []):
            if not rule.get("from") or any("ipBlock" in peer for peer in rule["from"]):
                yield f"NetworkPolicy {policy['metadata']['name']}: open to the world"
            if {} in [peer.get("namespaceSelector") for peer in rule.get("from", [])]:
                yield f"NetworkPolicy {policy['metadata']['name']}: open to every namespace"


def _pod_problems(pod: Manifest, accounts: dict[str, Manifest]) -> Iterator[str]:
    context = pod.get("securityContext", {})
    if not context.get("runAsNonRoot") or context.get("runAsUser", 1) == 0:
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if {"hostNetwork", "hostPID", "hostIPC"} & set(pod):
        yield "uses the host's namespaces"
    if any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield "mounts a path of the host"
    if pod.get("automountServiceAccountToken", True):
        yield "mounts a token for the Kubernetes API"
    if pod.get("serviceAccountName") not in accounts:
        yield f"no ServiceAccount {pod.get('serviceAccountName')}"
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        yield from _privilege_problems(container.get("securityContext", {}))
        image = container["image"]
        last = image.rpartition("/")[2]
        if not re.search(r":[0-9]+\.[0-9]+\.[0-9]+([-@]|$)", last) or ":latest" in last:
            yield f"image {image} is not pinned to a version"
        for variable in container.get("env", []):
            if SECRET.search(variable["name"]) and variable.get("value"):
                yield f"{variable['name']} stands in the file"
        resources = container.get("resources", {})
        asked, most = (resources.get(part, {}).get("memory") for part in ("requests", "limits"))
        if asked is None or asked != most:
            yield f"memory: requests {asked}, limits {most}; must be equal"
        if missing := {mount["name"] for mount in container.get("volumeMounts", [])} - volumes:
            yield f"no volume {', '.join(missing)}"


def _privilege_problems(context: Manifest) -> Iterator[str]:
    if context.get("allowPrivilegeEscalation", True) or context.get("privileged"):
        yield "may gain privileges"
    if context.get("capabilities", {}) != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if context.get("runAsUser", 1) == 0 or context.get("runAsNonRoot") is False:
        yield "may run as root"


def _cluster_policy_problems(spec: Manifest, grace_s: float) -> Iterator[str]:
    auth, head = spec.get("authOptions", {}), spec["headGroupSpec"]
    if auth.get("mode") != "token" or not auth.get("secretName"):
        yield "no token of our own"
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield "head: has CPUs for trials"
    if head.get("enableIngress") or head.get("serviceType", "ClusterIP") != "ClusterIP":
        yield "head: reachable from outside"
    options = spec.get("autoscalerOptions", {})
    if not spec.get("enableInTreeAutoscaling") or options.get("version") != "v2":
        yield "no autoscaler v2"
    yield from (
        f"autoscaler: {problem}"
        for problem in _privilege_problems(options.get("securityContext", {}))
    )
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    if token not in [mount["mountPath"] for mount in options.get("volumeMounts", [])]:
        yield "autoscaler: has no token for the Kubernetes API"
    tolerance = spec.get("gcsFaultToleranceOptions", {})
    if tolerance.get("backend") != "rocksdb" and "secretKeyRef" not in tolerance.get(
        "redisPassword", {}
    ).get("valueFrom", {}):
        yield "Redis: password not from a Secret"
    for name, group in groups(spec):
        yield from (f"{name}: {problem}" for problem in _group_problems(name, group, grace_s))


def _group_problems(name: str, group: Manifest, grace_s: float) -> Iterator[str]:
    pod, container = group["template"]["spec"], group["template"]["spec"]["containers"][0]
    mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    if token := [path for path in mounts if "serviceaccount" in path]:
        yield f"{token[0]}: the token is for the autoscaler alone"
    for path, medium in (("/tmp", None), ("/dev/shm", "Memory")):
        directory = volumes.get(mounts.get(path, ""), {}).get("emptyDir", {})
        if "sizeLimit" not in directory or directory.get("medium") != medium:
            yield f"{path} is no volume with a limit{' in memory' if medium else ''}"
        elif medium:
            memory, share = (
                amount(container["resources"]["limits"]["memory"]),
                amount(directory["sizeLimit"]),
            )
            # Ray takes 30 % for objects, and no more than 95 % of what is there.
            if not 0.3 * memory / 0.95 <= share <= 0.5 * memory:
                yield f"{path}: {share / memory:.0%} of the memory, not the 32 to 50 % that Ray's objects need"
    grace = pod.get("terminationGracePeriodSeconds", 30)
    if grace < grace_s + 30:
        yield f"terminationGracePeriodSeconds {grace} is too short to stop a study"
    hook = " ".join(
        container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    )
    sleeps = [int(seconds) for seconds in re.findall(r"sleep (\d+)", hook)]
    if (
        not sleeps
        or (max(sleeps) < grace_s + 5 and "kill -TERM" not in hook)
        or sum(sleeps) >= grace
    ):
        yield "preStop does not wait for the study's checkpoints"
    environment = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
    if float(environment.get("RAY_JOB_STOP_WAIT_TIME_S", 3)) < grace_s + 10:
        yield "RAY_JOB_STOP_WAIT_TIME_S: a stopped job is killed before its checkpoints"
    gpu = "nvidia.com/gpu" in container["resources"]["limits"]
    if name != "head" and group["minReplicas"] != 0:
        yield "minReplicas: costs money while nobody asks"
    if gpu and "nvidia.com/gpu" not in [
        toleration.get("key") for toleration in pod.get("tolerations", [])
    ]:
        yield "does not tolerate GPU nodes"
    terms = _node_terms(pod)
    on_spot = all("In" in term for term in terms)
    off_spot = all(term and term <= {"NotIn", "DoesNotExist"} for term in terms)
    if gpu and not on_spot:
        yield "not bound to spot nodes"
    if not gpu and not off_spot:
        yield "may land on a spot node"


def _node_terms(pod: Manifest) -> list[set[str]]:
    """How each alternative of the node affinity compares labels; all of ours are those by which
    clouds mark spot nodes."""
    node = pod.get("affinity", {}).get("nodeAffinity", {})
    terms = node.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get(
        "nodeSelectorTerms", [{}]
    )
    return [
        {expression["operator"] for expression in term.get("matchExpressions", [])}
        for term in terms
    ]


def changed(manifests: list[Manifest], kind: str, *change: Manifest) -> list[Manifest]:
    """A copy in which the first manifest of a kind has a JSON patch applied."""
    made = deepcopy(manifests)
    index = next(i for i, manifest in enumerate(made) if manifest["kind"] == kind)
    made[index] = jsonpatch.apply_patch(made[index], list(change))
    return made
