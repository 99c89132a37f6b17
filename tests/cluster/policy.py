"""What every launcher file must keep to, beyond what Ray checks: it would start a cluster that is
open, or costs, or stops.

`problems` returns sentences; none for a file that keeps to all of it.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

SECRETS = {
    "an AWS key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret": r"(?i)aws_?(secret|session)",
    "a private key": r"-----BEGIN|\"private_key\"|private_key_id",
    "Google credentials": r"gcp_credentials|GOOGLE_APPLICATION_CREDENTIALS",
    "an Azure key": r"(?i)AccountKey=|SharedAccessSignature|client_secret",
    "a hub token": r"\b(hf|ghp|github_pat)_[A-Za-z0-9]{16,}",
    "a token in plain text": r"RAY_AUTH_TOKEN=|(?i:password|passwd)\s*[:=]",
}
INSTALLERS = r"\b(pip3?|apt|apt-get|conda|uv|yum|dnf)\s+(-\S+\s+)*(install|add)\b|\bcurl\b|\bwget\b|\bgit clone\b"
WORLD = r"0\.0\.0\.0/0|::/0"


def problems(text: str) -> list[str]:
    """All that is wrong with the text of a launcher file."""
    return list(_problems(text, yaml.safe_load(text)))


def _problems(text: str, config: dict[str, Any]) -> Iterator[str]:
    # Comments may speak of what must not be done.
    bare = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    for name, pattern in SECRETS.items():
        if re.search(pattern, bare):
            yield f"there is {name} in the file"
    if re.search(WORLD, bare):
        yield "something is open to the world"
    if not 0 < config.get("idle_timeout_minutes", 0) <= 60:
        yield "idle_timeout_minutes: idle nodes are paid for longer than an hour"
    for name, value in config.items():
        if name.endswith("_commands") and any(re.search(INSTALLERS, command) for command in value):
            yield f"{name}: installs at start what should be in the image"
    yield from _start_commands(config)
    if config["provider"]["type"] == "local":
        if (
            not config.get("min_workers")
            == config.get("max_workers")
            == len(config["provider"]["worker_ips"])
        ):
            yield "min_workers: Ray starts no machine of its own accord here, so one that does not join at once never does"
        return
    yield from _groups(config)
    yield from {"aws": _aws, "gcp": _gcp, "azure": _azure}[config["provider"]["type"]](config)


def _start_commands(config: dict[str, Any]) -> Iterator[str]:
    for role in ("head", "worker"):
        starts = [
            command for command in config[f"{role}_start_ray_commands"] if "ray start" in command
        ]
        if len(starts) != 1:
            yield f"{role}: {len(starts)} commands start Ray"
            continue
        before, _, options = starts[0].partition("ray start")
        variables = dict(re.findall(r"(?:export|\s)\s*(\w+)=([^\s;]*)", before))
        if variables.get("RAY_AUTH_MODE") != "token":
            yield f"{role}: starts without tokens, so whoever reaches a port runs code"
        token = variables.get("RAY_AUTH_TOKEN_PATH", "")
        if not any(
            token == mount or token.startswith(f"{mount}/")
            for mount in config.get("file_mounts", {})
        ):
            yield f"{role}: file_mounts does not bring the token {token!r}"
        if not any(
            f"chmod 600 {token}" in command for command in config["setup_commands"] if token
        ):
            yield f"{role}: others may read the token"
        if "--object-spilling-directory=" not in options:
            yield f"{role}: objects spill to the boot disk"
        hosts = re.findall(r"--dashboard-host[= ](\S+)", options)
        if hosts != (["127.0.0.1"] if role == "head" else []):
            yield f"{role}: the dashboard listens elsewhere than on loopback: {hosts}"
        if role == "head":
            if "--num-cpus=0" not in options.split() or "--num-gpus=0" not in options.split():
                yield "head: trials run beside the driver"
            if variables.get("RAY_gcs_storage") != "rocksdb" or not variables.get(
                "RAY_gcs_storage_path"
            ):
                yield "head: a GCS that dies forgets the cluster"
            if "--autoscaling-config=" not in options:
                yield "head: no autoscaler, so no workers"
            local = config["provider"]["type"] == "local"
            if variables.get("RAY_enable_autoscaler_v2") != ("0" if local else None):
                yield "head: autoscaler v2 loops with the local provider, and is right for the others"


def _groups(config: dict[str, Any]) -> Iterator[str]:
    image = config["docker"].get("image", "")
    if not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image) or ":latest" in image:
        yield f"docker: the image is not pinned by tag and digest: {image!r}"
    if config["provider"].get("cache_stopped_nodes", True):
        yield "provider: stopped nodes stay, and so do their costs"
    groups = dict(config["available_node_types"])
    head = groups.pop(config["head_node_type"])
    if head["resources"].get("CPU") != 0:
        yield "head: the autoscaler counts on its processors"
    if head.get("max_workers") != 0:
        yield "head: workers of its kind may be started"
    for name, group in groups.items():
        if group.get("min_workers") != 0:
            yield f"{name}: nodes are kept while no trial waits"
        if not _spot(config["provider"]["type"], group["node_config"]):
            yield f"{name}: not spot"


def _spot(provider: str, node: dict[str, Any]) -> bool:
    if provider == "aws":
        return node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    if provider == "gcp":
        return node.get("scheduling", {}).get("provisioningModel") == "SPOT"
    return node["azure_arm_parameters"].get("priority") == "Spot"


def _nodes(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, group in config["available_node_types"].items():
        yield name, group["node_config"]


def _aws(config: dict[str, Any]) -> Iterator[str]:
    if "security_group" in config["provider"]:
        yield "provider: Ray opens SSH to the world in a group that it is told to make"
    for name, node in _nodes(config):
        if not node.get("SecurityGroupIds"):
            yield f"{name}: Ray makes a group that opens SSH to the world"
        if not node.get("IamInstanceProfile"):
            yield f"{name}: no identity, so keys would have to be copied there"
        if not re.fullmatch(r"ami-[0-9a-f]{17}", node.get("ImageId", "")):
            yield f"{name}: the image is not pinned: {node.get('ImageId')!r}"
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"{name}: the node's credentials can be had without a session token"
        if not all(
            disk["Ebs"].get("Encrypted") for disk in node.get("BlockDeviceMappings", [{"Ebs": {}}])
        ):
            yield f"{name}: a disk is not encrypted"


def _gcp(config: dict[str, Any]) -> Iterator[str]:
    if "ssh_private_key" not in config["auth"]:
        yield "auth: Ray adds its key to every machine of the project"
    for name, node in _nodes(config):
        networks = [card.get("subnetwork", "default") for card in node.get("networkInterfaces", [])]
        if not networks or any(network.endswith("default") for network in networks):
            yield f"{name}: the network `default` opens SSH to the world"
        if not node.get("serviceAccounts"):
            yield f"{name}: no identity of its own"
        items = {item["key"]: item["value"] for item in node.get("metadata", {}).get("items", [])}
        if items.get("block-project-ssh-keys") != "TRUE":
            yield f"{name}: keys of the whole project open it"
        for disk in node["disks"]:
            if (
                disk["type"] == "PERSISTENT"
                and "/family/" in disk["initializeParams"]["sourceImage"]
            ):
                yield f"{name}: the image is not pinned"


def _azure(config: dict[str, Any]) -> Iterator[str]:
    provider = config["provider"]
    if not provider.get("use_internal_ips"):
        yield "provider: every node gets a public address, and Ray's rule opens SSH to the world"
    if not (provider.get("msi_name") and provider.get("msi_resource_group")):
        yield "provider: no identity of its own"
    for name, node in _nodes(config):
        parameters = node["azure_arm_parameters"]
        if "imageId" not in parameters and parameters.get("imageVersion", "latest") == "latest":
            yield f"{name}: the image is not pinned"
