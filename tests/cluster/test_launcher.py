"""The launcher files, before they cost money: Ray's own checks, AWS as moto plays it, Google's API
description, Azure's template, and our rules. Each check is shown mistakes that it must catch."""

import copy
import functools
import importlib
import json
import sys
import types
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click import ClickException
from policy import problems

FOLDER = Path(__file__).parent.parent.parent / "cluster" / "launcher"
FILES = {name: (FOLDER / f"{name}.yaml").read_text() for name in ("aws", "gcp", "azure", "onprem")}
KIND, NODE_TYPE, CLUSTER = "ray-node-type", "ray-user-node-type", "ray-cluster-name"


def changed(text: str, old: str, new: str) -> str:
    """The text with the last `old` replaced: what stands last is the worker's, and easily
    forgotten."""
    assert old in text, f"{old!r} is no longer in the file: the planted mistake would prove nothing"
    before, _, after = text.rpartition(old)
    return before + new + after


# ---- Ray's own checks


def prepared(text: str) -> dict[str, Any]:
    """As `ray up` reads it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name: str) -> None:
    config = prepared(FILES[name])
    assert config["cluster_name"] == "ray-unlearn"
    assert config["head_node_type"] in config["available_node_types"]


MISTAKES = [
    ("aws", "idle_timeout_minutes: 10", "idle_timeout_minute: 10"),
    ("aws", "max_workers: 2\nupscaling", "max_workers: two\nupscaling"),
    ("aws", "head_node_type: head", "head_node_type: heads"),
    ("aws", "container_name:", "containr_name:"),
    ("aws", "    node_config:\n      <<", "    node_confg:\n      <<"),
    ("gcp", "min_workers: 0", "min_workers: 3"),
    ("gcp", "ssh_user: ubuntu", "sshuser: ubuntu"),
    ("gcp", "project_id: my-project ", "project_id: [my-project] "),
    ("azure", "use_internal_ips: true", "use_internal_ips: 'yes'"),
    ("azure", "head_start_ray_commands:", "head_start_commands:"),
    ("onprem", "head_ip: head.example.org", "head: head.example.org"),
    ("onprem", "type: local", "type: onprem"),
    ("onprem", "setup_commands:\n  - chmod", "setup_commands: chmod\n  - chmod"),
]


@pytest.mark.parametrize(("name", "old", "new"), MISTAKES)
def test_ray_refuses_a_mistake(name: str, old: str, new: str) -> None:
    refusals = (
        jsonschema.ValidationError, ValueError, AssertionError, NotImplementedError, ClickException, yaml.YAMLError,
    )  # fmt: skip
    with pytest.raises(refusals):
        prepared(changed(FILES[name], old, new))


# ---- our rules


@pytest.mark.parametrize("name", FILES)
def test_file_keeps_the_rules(name: str) -> None:
    assert problems(FILES[name]) == []


EVERYWHERE = ["aws", "gcp", "azure", "onprem"]
CLOUDS = ["aws", "gcp", "azure"]
BROKEN_RULES = [
    (EVERYWHERE, "--num-cpus=0", "--num-cpus=4", "beside the driver"),
    (EVERYWHERE, "--num-gpus=0", "", "beside the driver"),
    (EVERYWHERE, "export RAY_AUTH_MODE=token ", "export ", "worker: starts without tokens"),
    (EVERYWHERE, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "worker: starts without tokens"),
    (EVERYWHERE, "/auth_token OMP", "/token OMP", "others may read the token"),
    (
        CLOUDS,
        "RAY_AUTH_TOKEN_PATH=~/secret",
        "RAY_AUTH_TOKEN_PATH=~/elsewhere",
        "does not bring the token",
    ),
    (CLOUDS, "&& chmod 600 ~/secret/auth_token", "", "others may read the token"),
    (["onprem"], "&& chmod 600 ~/.ray-unlearn/auth_token", "", "others may read the token"),
    (EVERYWHERE, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "listens elsewhere"),
    (EVERYWHERE, "--dashboard-host=127.0.0.1", "", "listens elsewhere"),
    (
        EVERYWHERE,
        "ray start --address=",
        "ray start --dashboard-host=0.0.0.0 --address=",
        "worker: the dashboard",
    ),
    (EVERYWHERE, "RAY_gcs_storage=rocksdb ", "", "forgets the cluster"),
    (EVERYWHERE, "--autoscaling-config=~/ray_bootstrap_config.yaml", "", "no autoscaler"),
    (EVERYWHERE, "--object-spilling-directory=", "--directory=", "worker: objects spill"),
    (EVERYWHERE, "idle_timeout_minutes: ", "idle_timeout_minutes: 9", "idle_timeout_minutes"),
    (
        EVERYWHERE,
        "worker_setup_commands: []",
        "worker_setup_commands: [pip install -U ray]",
        "installs at start",
    ),
    (
        EVERYWHERE,
        "head_setup_commands: []",
        "head_setup_commands: ['curl -fsSL x | sh']",
        "installs at start",
    ),
    (["onprem"], "RAY_enable_autoscaler_v2=0", "OTHER=0", "autoscaler v2 loops"),
    (["onprem"], "min_workers: 2", "min_workers: 0", "never does"),
    (["onprem"], "gpu1.example.org, ", "", "never does"),
    (
        CLOUDS,
        "OMP_NUM_THREADS=1;\n    export RAY_gcs",
        "RAY_enable_autoscaler_v2=0;\n    export RAY_gcs",
        "autoscaler v2",
    ),
    (CLOUDS, "resources: {CPU: 0}", "resources: {}", "counts on its processors"),
    (
        CLOUDS,
        "    min_workers: 0\n    max_workers: 2",
        "    min_workers: 1\n    max_workers: 2",
        "nodes are kept",
    ),
    (CLOUDS, "    max_workers: 0", "    max_workers: 1", "workers of its kind"),
    (CLOUDS, "cache_stopped_nodes: false", "cache_stopped_nodes: true", "stopped nodes stay"),
    (CLOUDS, ":0.1.0@sha256:" + "0" * 64, ":0.1.0", "not pinned by tag and digest"),
    (CLOUDS, ":0.1.0@sha256", ":latest@sha256", "not pinned by tag and digest"),
    (CLOUDS, "cluster_name: ray-unlearn", "cluster_name: AKIAIOSFODNN7EXAMPLE", "an AWS key"),
    (EVERYWHERE, "ray stop\n", "export RAY_AUTH_TOKEN=abc; ray stop\n", "a token in plain text"),
    (
        EVERYWHERE,
        "file_mounts:\n",
        "file_mounts:\n  ~/key: '-----BEGIN OPENSSH PRIVATE KEY-----'\n",
        "a private key",
    ),
    (["aws"], "MarketType: spot", "MarketType: capacity-block", "not spot"),
    (
        ["aws"],
        "SecurityGroupIds: [sg-0123456789abcdef0]",
        "KeyName: mine",
        "opens SSH to the world",
    ),
    (
        ["aws"],
        "provider:\n",
        "provider:\n  security_group: {GroupName: ray}\n",
        "opens SSH to the world",
    ),
    (["aws"], "IamInstanceProfile: {Name: ray-unlearn-head}", "KeyName: mine", "no identity"),
    (["aws"], "ami-0123456789abcdef0", "latest_dlami", "the image is not pinned"),
    (["aws"], "HttpTokens: required", "HttpTokens: optional", "without a session token"),
    (["aws"], "Encrypted: true, ", "", "not encrypted"),
    (["aws"], "provider:\n", "provider:\n  rule: 0.0.0.0/0\n", "open to the world"),
    (["gcp"], "provisioningModel: SPOT", "provisioningModel: STANDARD", "not spot"),
    (["gcp"], "subnetworks/ray-unlearn", "subnetworks/default", "opens SSH to the world"),
    (["gcp"], "  ssh_private_key: ~/.ssh/ray-unlearn\n", "", "every machine of the project"),
    (
        ["gcp"],
        "images/ray-unlearn-20260101",
        "images/family/common-cu124",
        "the image is not pinned",
    ),
    (["gcp"], 'value: "TRUE"', 'value: "FALSE"', "keys of the whole project"),
    (
        ["gcp"],
        "provider:\n",
        "provider:\n  gcp_credentials: {type: service_account}\n",
        "Google credentials",
    ),
    (["azure"], "priority: Spot", "priority: Regular", "not spot"),
    (["azure"], "use_internal_ips: true", "use_internal_ips: false", "opens SSH to the world"),
    (
        ["azure"],
        "imageVersion: 22.04.2025041101",
        "imageVersion: latest",
        "the image is not pinned",
    ),
    (["azure"], "msi_name: ray-unlearn\n", "other: ray-unlearn\n", "no identity"),
]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        pytest.param(name, *rest, id=f"{name}-{i}")
        for i, (names, *rest) in enumerate(BROKEN_RULES)
        for name in names
    ],
)
def test_a_broken_rule_is_seen(name: str, old: str, new: str, message: str) -> None:
    found = problems(changed(FILES[name], old, new))
    assert found
    assert any(message in problem for problem in found), found


# ---- AWS


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto's AWS with the network and the roles that README.md says to make; the file with their
    names filled in."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto")
    from ray.autoscaler._private.aws import node_provider

    with pytest.MonkeyPatch.context() as patch, moto.mock_aws():
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        patch.setenv(
            "HOME", str(tmp_path_factory.mktemp("home"))
        )  # Ray writes the key that it makes to ~/.ssh
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setattr(
            node_provider, "list_ec2_instances", functools.cache(node_provider.list_ec2_instances)
        )
        ec2, iam = boto3.client("ec2"), boto3.client("iam")
        subnet = ec2.describe_subnets()["Subnets"][0]
        group = ec2.create_security_group(
            GroupName="ray-unlearn", Description="x", VpcId=subnet["VpcId"]
        )["GroupId"]
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        for name in ("ray-unlearn-head", "ray-unlearn-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        text = FILES["aws"].replace("subnet-0123456789abcdef0", subnet["SubnetId"])
        yield text.replace("sg-0123456789abcdef0", group).replace("ami-0123456789abcdef0", image)


def instances_on_aws() -> dict[str, dict[str, Any]]:
    """All that was ever started, by id."""
    import boto3

    found = boto3.client("ec2").describe_instances()["Reservations"]
    return {
        instance["InstanceId"]: instance
        for reservation in found
        for instance in reservation["Instances"]
    }


def security_groups() -> dict[str, Any]:
    """The rules of all security groups, by id."""
    import boto3

    found = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    return {group["GroupId"]: group["IpPermissions"] for group in found}


def open_to_the_world(rules: list[dict[str, Any]]) -> bool:
    return any(address["CidrIp"] == "0.0.0.0/0" for rule in rules for address in rule["IpRanges"])


def started_on_aws(text: str) -> tuple[Any, dict[str, Any], dict[str, dict[str, Any]]]:
    """What `ray up` and the autoscaler do, through Ray's own provider, for one head and one worker.

    The provider, Ray's complete configuration, and the instances by node type.
    """
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    before = instances_on_aws().keys()
    config = bootstrap_aws(AWSNodeProvider.fillout_available_node_types_resources(prepared(text)))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for node_type, kind in (("head", "head"), ("spot_gpu", "worker")):
        node = copy.deepcopy(config["available_node_types"][node_type]["node_config"])
        provider.create_node(node, {KIND: kind, NODE_TYPE: node_type}, 1)
    new = [instance for name, instance in instances_on_aws().items() if name not in before]
    return (
        provider,
        config,
        {tag["Value"]: i for i in new for tag in i["Tags"] if tag["Key"] == NODE_TYPE},
    )


def test_aws_starts_head_and_workers(aws: str) -> None:
    import boto3

    groups = security_groups()
    _, config, instances = started_on_aws(aws)
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0
    assert config["available_node_types"]["spot_gpu"]["resources"]["GPU"] == 4
    assert set(instances) == {"head", "spot_gpu"}
    assert instances["head"]["InstanceType"] == "m7i.xlarge"
    assert instances["spot_gpu"]["InstanceType"] == "g6e.12xlarge"
    assert instances["spot_gpu"]["InstanceLifecycle"] == "spot"
    assert instances["head"].get("InstanceLifecycle") != "spot"
    assert instances["head"]["IamInstanceProfile"]["Arn"].endswith("/ray-unlearn-head")
    assert instances["spot_gpu"]["IamInstanceProfile"]["Arn"].endswith("/ray-unlearn-worker")
    for instance in instances.values():
        assert [
            open_to_the_world(groups[group["GroupId"]]) for group in instance["SecurityGroups"]
        ] == [False]
    assert security_groups() == groups, "Ray made a security group, or changed ours"
    roles = {role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"]}
    assert not any(role.startswith("ray-autoscaler") for role in roles), (
        "Ray made a role with full access"
    )


def test_without_a_group_ray_opens_ssh_to_the_world(aws: str) -> None:
    """The reason for SecurityGroupIds, and that the test above would see it."""
    text = "\n".join(line for line in aws.splitlines() if "SecurityGroupIds" not in line)
    _, _, instances = started_on_aws(text)
    (group,) = instances["head"]["SecurityGroups"]
    assert open_to_the_world(security_groups()[group["GroupId"]])


AWS_MISTAKES = [
    ("InstanceType: m7i.xlarge", "InstanceTyp: m7i.xlarge"),
    ("InstanceType: g6e.12xlarge", "InstanceType: g6e.13xlarge"),
    ("VolumeSize: 200", "VolumeSize: many"),
    ("VolumeType: gp3", "VolumTyp: gp3"),
    ("HttpTokens: required", "HttpToken: required"),
    ("MarketType: spot", "Market: spot"),
    ("SpotInstanceType: one-time", "SpotInstanceTyp: one-time"),
    ("IamInstanceProfile: {Name: ray-unlearn-worker}", "IamInstanceProfile: ray-unlearn-worker"),
    ("SubnetIds: [subnet-", "SubnetIds: [subnet-0"),
    ("SecurityGroupIds: [sg-", "SecurityGroupIds: [sg-0"),
]


@pytest.mark.parametrize(("old", "new"), AWS_MISTAKES)
def test_aws_refuses_a_mistake(aws: str, old: str, new: str) -> None:
    from botocore.exceptions import ClientError, ParamValidationError

    with pytest.raises(
        (ClientError, ParamValidationError, ClickException, ValueError, AssertionError, KeyError)
    ):
        started_on_aws(changed(aws, old, new))


def actions(policy: str) -> list[str]:
    """All that a policy of ours allows."""
    statements = json.loads((FOLDER / policy).read_text())["Statement"]
    assert all(statement["Effect"] == "Allow" for statement in statements)
    return [
        a
        for s in statements
        for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    ]


def test_head_may_do_what_the_autoscaler_does(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing action would show only when the first trial waits for a node that never comes."""
    from botocore.client import BaseClient

    provider, _, instances = started_on_aws(aws)
    called: set[str] = set()
    real = BaseClient._make_api_call

    def recording(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        called.add(f"{self.meta.service_model.service_name}:{operation}")
        return real(self, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", recording)
    worker = instances["spot_gpu"]
    node = {
        "InstanceType": "g6e.12xlarge",
        "SubnetIds": [worker["SubnetId"]],
        "ImageId": worker["ImageId"],
    }
    worker = worker["InstanceId"]
    assert worker in provider.non_terminated_nodes({KIND: "worker"})
    provider.create_node(node, {KIND: "worker", NODE_TYPE: "spot_gpu"}, 1)
    provider.set_node_tags(worker, {"ray-node-status": "up-to-date"})
    provider.terminate_node(worker)
    provider.terminate_nodes(provider.non_terminated_nodes({KIND: "worker"}))
    allowed = actions("aws-head-policy.json")
    assert called >= {
        "ec2:RunInstances",
        "ec2:TerminateInstances",
        "ec2:CreateTags",
        "ec2:DescribeInstances",
    }
    assert [
        call for call in called if not any(fnmatchcase(call, action) for action in allowed)
    ] == []


@pytest.mark.parametrize("policy", ["aws-head-policy.json", "aws-worker-policy.json"])
def test_aws_policies_allow_little(policy: str) -> None:
    assert not any("*" in action for action in actions(policy))
    for statement in json.loads((FOLDER / policy).read_text())["Statement"]:
        names = (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
        if statement["Resource"] == "*":
            assert all(name.startswith("ec2:Describe") for name in names), statement["Sid"]
        if any(name.endswith("Object") for name in names):
            assert statement["Resource"] == "arn:aws:s3:::BUCKET/studies/*"
        if names == ["s3:ListBucket"]:
            assert statement["Condition"]["StringLike"]["s3:prefix"] == ["studies", "studies/*"]
    if policy == "aws-worker-policy.json":
        assert all(action.startswith("s3:") for action in actions(policy)), (
            "a worker starts no machines"
        )


# ---- Google Cloud


class Google:
    """Takes requests where Google's servers would, and keeps them."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []

    def request(
        self, uri: str, method: str = "GET", body: Any = None, headers: Any = None, **_: Any
    ) -> tuple[Any, bytes]:
        import httplib2

        self.requests.append((method, uri, json.loads(body) if body else None))
        answer: dict[str, Any] = {"name": "operation", "status": "DONE", "bindings": []}
        answer |= {"projectId": "my-project", "lifecycleState": "ACTIVE", "email": "ray@my-project"}
        return httplib2.Response({"status": 200, "content-type": "application/json"}), json.dumps(
            answer
        ).encode()

    def close(self) -> None:
        pass


def google_document(service: str) -> dict[str, Any]:
    """Google's description of an API, as it comes with its client."""
    discovery = pytest.importorskip(
        "googleapiclient.discovery_cache", reason="Google's client is not installed"
    )
    return json.loads(
        (Path(discovery.__file__).parent / "documents" / f"{service}.v1.json").read_text()
    )


def strict(schema: Any) -> Any:
    """A discovery schema as a strict JSON Schema: no unknown fields, and 64-bit numbers as strings
    or as numbers."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": f"#/schemas/{schema['$ref']}"}
    kept: dict[str, Any] = {}
    if "type" in schema:
        numeric = schema.get("format") in ("int64", "uint64")
        kept["type"] = ["string", "integer"] if numeric else schema["type"]
    if kept.get("type") == "any":
        del kept["type"]
    for key in ("enum", "items"):
        if key in schema:
            kept[key] = strict(schema[key])
    if "properties" in schema:
        kept["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        kept["additionalProperties"] = False
    elif "additionalProperties" in schema:
        kept["additionalProperties"] = strict(schema["additionalProperties"])
    return kept


@pytest.fixture(scope="module")
def instance_schema() -> dict[str, Any]:
    schemas = google_document("compute")["schemas"]
    return {
        "schemas": {name: strict(schema) for name, schema in schemas.items()},
        "$ref": "#/schemas/Instance",
    }


def sent_to_google(text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Google, Google]:
    """What `ray up` and the autoscaler send, through Ray's own code: while preparing, and to start
    one head and one worker."""
    from googleapiclient.discovery import build_from_document
    from ray.autoscaler._private.gcp import config as gcp
    from ray.autoscaler._private.gcp import node

    preparing, starting = Google(), Google()
    clients = [
        build_from_document(google_document(s), http=preparing)
        for s in ("cloudresourcemanager", "iam", "compute")
    ]
    monkeypatch.setattr(gcp, "construct_clients_from_provider_config", lambda _: (*clients, None))
    monkeypatch.setattr(node.GCPCompute, "get_new_authorized_http", lambda self, http: starting)
    config = gcp.bootstrap_gcp(prepared(text))
    compute = node.GCPCompute(
        build_from_document(google_document("compute"), http=starting),
        config["provider"]["project_id"], config["provider"]["availability_zone"], config["cluster_name"],
    )  # fmt: skip
    for kind in ("head", "worker"):
        config_of = config["available_node_types"]["head" if kind == "head" else "spot_gpu"][
            "node_config"
        ]
        defaults = config["head_node"] if kind == "head" else {}
        labels = {"ray-node-name": f"ray-unlearn-{kind}", KIND: kind}
        compute.create_instance(defaults | config_of, labels, wait_for_operation=False)
    return preparing, starting


def test_google_starts_head_and_workers(
    instance_schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing, starting = sent_to_google(FILES["gcp"], monkeypatch)
    assert not [uri for _, uri, _ in preparing.requests if "/compute/" in uri], (
        "Ray put a key or looked for a network"
    )
    (_, uri, head), (_, _, worker) = starting.requests
    assert "/projects/my-project/zones/us-central1-a/instances" in uri
    for body in (head, worker):
        jsonschema.validate(body, instance_schema)
    assert head["serviceAccounts"][0]["email"].startswith("ray-unlearn-head@"), (
        "the head got the role that Ray makes"
    )
    assert worker["serviceAccounts"][0]["email"].startswith("ray-unlearn-worker@")
    assert worker["scheduling"]["provisioningModel"] == "SPOT"
    assert "scheduling" not in head


GOOGLE_MISTAKES = [
    ("machineType: g2-standard-48", "machine_type: g2-standard-48"),
    ("provisioningModel: SPOT", "provisioningModel: spot"),
    ("instanceTerminationAction: DELETE", "instanceTerminationAction: REMOVE"),
    ("automaticRestart: false", "automaticRestart: 'no'"),
    ("onHostMaintenance: TERMINATE", "onHostMaintenence: TERMINATE"),
    ("diskSizeGb: 200", "diskSize: 200"),
    ("diskSizeGb: 200", "diskSizeGb: 200.5"),
    ("interface: NVME", "interface: NVMe"),
    ("accessConfigs: [", "accessConfig: ["),
    ("type: ONE_TO_ONE_NAT", "type: NAT"),
    (
        'scopes: ["https://www.googleapis.com/auth/cloud-platform"]\n      metadata: *',
        "scope: [all]\n      metadata: *",
    ),
    (
        "      scheduling:\n        provisioningModel",
        "      scheduling:\n      - provisioningModel",
    ),
]


@pytest.mark.parametrize(("old", "new"), GOOGLE_MISTAKES)
def test_google_refuses_a_mistake(
    instance_schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    text = changed(FILES["gcp"], old, new)
    if "- provisioningModel" in new:
        text = (
            text.split("        instanceTerminationAction")[0]
            + text[text.index("\n# A folder, not the file") :]
        )

    def all_is_well() -> None:
        _, starting = sent_to_google(text, monkeypatch)
        for _, _, body in starting.requests:
            jsonschema.validate(body, instance_schema)

    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError)):
        all_is_well()


# ---- Azure: no offline description of its API, so Ray's template is the judge of names and types,
# not of sizes and images


class Deployments:
    """Takes the deployments that Ray would send."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def begin_create_or_update(self, parameters: Any, **_: Any) -> Any:
        self.sent.append(parameters)
        return types.SimpleNamespace(wait=lambda timeout=None: None)


@pytest.fixture
def azure_provider(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray's module for Azure; Azure's own packages, of which it needs only names here, are left
    blank."""
    names = ("", ".common", ".common.credentials", ".core", ".core.exceptions", ".identity", ".mgmt", ".mgmt.compute",
             ".mgmt.network", ".mgmt.resource", ".mgmt.resource.resources", ".mgmt.resource.resources.models")  # fmt: skip
    for name in names:
        blank = types.ModuleType(f"azure{name}")
        blank.__getattr__ = lambda attribute: type(
            attribute, (Exception,), {"incremental": "Incremental"}
        )  # type: ignore[method-assign]
        monkeypatch.setitem(sys.modules, f"azure{name}", blank)
    ours = ("ray.autoscaler._private._azure.config", "ray.autoscaler._private._azure.node_provider")
    for module in ours:
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield importlib.import_module(ours[1])
    for module in ours:
        sys.modules.pop(module, None)


def sent_to_azure(text: str, module: Any) -> list[dict[str, Any]]:
    """The deployments of one head and one worker, made by Ray's own code."""
    config = prepared(text)
    provider = module.AzureNodeProvider.__new__(module.AzureNodeProvider)
    provider.provider_config = config["provider"] | {
        "unique_id": "abcd",
        "msi": "/m",
        "nsg": "/n",
        "subnet": "/s",
    }
    provider.cluster_name = config["cluster_name"]
    sizes = types.SimpleNamespace(list=list)
    provider.compute_client = types.SimpleNamespace(resource_skus=sizes)
    deployments = Deployments()
    provider.resource_client = types.SimpleNamespace(deployments=deployments)
    for kind, node_type in (("head", "head"), ("worker", "spot_gpu")):
        node = copy.deepcopy(config["available_node_types"][node_type]["node_config"])
        # Ray adds these two from `auth`, from key files that are not here.
        node["azure_arm_parameters"] |= {
            "adminUsername": config["auth"]["ssh_user"],
            "publicKey": "ssh-ed25519 x",
        }
        provider._create_node(node, {KIND: kind, "ray-node-name": f"ray-unlearn-{kind}"}, 1)
    return deployments.sent


TYPES = {
    "string": str,
    "securestring": str,
    "int": int,
    "bool": bool,
    "object": dict,
    "array": list,
}
VALUES = {"priority": ("Regular", "Spot", "Low"), "evictionPolicy": ("Delete", "Deallocate")}


def azure_problems(deployment: dict[str, Any]) -> list[str]:
    """What the template's own declarations, and the two lists of values of Azure's documents, have
    against it."""
    properties = deployment["properties"]
    declared = properties["template"]["parameters"]
    given = {name: value["value"] for name, value in properties["parameters"].items()}
    found = [f"{name}: unknown" for name in given if name not in declared]
    found += [
        f"{name}: missing"
        for name, d in declared.items()
        if "defaultValue" not in d and name not in given
    ]
    for name in given.keys() & declared.keys():
        wanted = TYPES[declared[name]["type"]]
        if type(given[name]) is not wanted or given[name] not in VALUES.get(name, (given[name],)):
            found.append(f"{name}: {given[name]!r} is not allowed")
    return found


def test_azure_starts_head_and_workers(azure_provider: Any) -> None:
    head, worker = sent_to_azure(FILES["azure"], azure_provider)
    assert azure_problems(head) == azure_problems(worker) == []
    for deployment, public, priority in ((head, True, "Regular"), (worker, False, "Spot")):
        parameters = deployment["properties"]["parameters"]
        assert parameters["provisionPublicIp"]["value"] is public
        assert parameters["priority"]["value"] == priority


AZURE_MISTAKES = [
    ("vmSize: Standard_NC48ads_A100_v4", "vmsize: Standard_NC48ads_A100_v4"),
    ("priority: Spot", "priority: spot"),
    ("priority: Spot", "prority: Spot"),
    ("osDiskSize: 200", "osDiskSize: '200'"),
    ("imageVersion: 22.04.2025041101", "imageVersion: 22.04"),
    ('imageSku: "2204"', "imageSku: 2204"),
    ("evictionPolicy: Delete", "evictionPolicy: Remove"),
    ("billingProfile: {maxPrice: -1}", "billingProfile: -1"),
    ("      azure_arm_parameters:\n        <<", "      arm_parameters:\n        <<"),
]


@pytest.mark.parametrize(("old", "new"), AZURE_MISTAKES)
def test_azure_refuses_a_mistake(azure_provider: Any, old: str, new: str) -> None:
    try:
        deployments = sent_to_azure(changed(FILES["azure"], old, new), azure_provider)
    except KeyError:
        return
    assert [problem for deployment in deployments for problem in azure_problems(deployment)]
