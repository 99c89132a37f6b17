"""The container file: what it installs is pinned, nobody is root in it, nothing secret gets in, and
its context is complete.

It is built only where a Docker daemon with a network is at hand, and then by hand; here it is read.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
FOLDER = REPOSITORY / "cluster" / "container"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
IGNORE = (FOLDER / "Dockerfile.dockerignore").read_text()
# rsync, ssh: Ray's launcher. ps: Ray. tmux: `ray exec --tmux`. wget: KubeRay's probes.
NEEDED = {"openssh-client", "procps", "rsync", "tmux", "wget"}


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each instruction, continued lines joined."""
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (line.split(None, 1)[0].upper(), " ".join(line.split(None, 1)[1].split()))
        for line in joined.splitlines()
    ]


def copied(text: str) -> list[str]:
    """The files and folders of the repository that get in."""
    return [
        source
        for name, rest in instructions(text)
        if name == "COPY"
        for source in rest.split()[:-1]
    ]


def ignored(ignore: str, path: str) -> bool:
    """Whether a file or folder at the top of the repository stays out; the last line that matches
    decides."""
    out = False
    for line in ignore.splitlines():
        if line and not line.startswith("#") and fnmatch(path, line.lstrip("!")):
            out = not line.startswith("!")
    return out


def container_problems(text: str, ignore: str = IGNORE) -> list[str]:
    """All that is wrong with a container file and its list of what stays out."""
    return list(_problems(text, ignore))


def _problems(text: str, ignore: str) -> Iterator[str]:
    steps = instructions(text)
    arguments = dict(rest.split("=", 1) for name, rest in steps if name == "ARG" and "=" in rest)
    for name, rest in steps:
        if name == "FROM":
            image = arguments.get(rest.strip("${}"), rest)
            if not re.search(r":\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?$", image):
                yield f"FROM: not a full version: {image}"
        if name == "ADD":
            yield "ADD: fetches and unpacks; COPY does not"
        if name in ("ARG", "ENV") and re.search(
            r"(?i)(password|secret|_key|auth_token)\b\s*=|(hf|api)_token", rest
        ):
            yield f"{name}: would stay readable in the image: {rest}"
        if name == "RUN":
            for command in re.split(r"&&|;", rest):
                if "pip install" in command and "--constraint constraints.txt" not in command:
                    yield f"RUN: not pinned by constraints.txt: {command.strip()}"
                if re.search(r"\b(curl|git clone|wget)\b .*(http|git@)", command):
                    yield f"RUN: fetches what nothing pins: {command.strip()}"
            if "apt-get install" in rest:
                if (
                    "--no-install-recommends" not in rest
                    or "rm -rf /var/lib/apt/lists/*" not in rest
                ):
                    yield "RUN: the image keeps more of Debian than it needs"
                if missing := NEEDED - set(rest.split()):
                    yield f"RUN: missing: {sorted(missing)}"
            if "chmod 777" in rest or "sudo" in rest:
                yield "RUN: gives the user more than it needs"
    pips = [rest for name, rest in steps if name == "RUN" and "pip install" in rest]
    if not pips[0].endswith(" torch") or "TORCH_INDEX" not in pips[0]:
        yield "torch: not first and alone, so another request chooses its build"
    users = [rest for name, rest in steps if name == "USER"]
    user = arguments.get(users[-1].strip("${}"), users[-1]) if users else "root"
    if not user.isdigit() or int(user) < 1000:
        yield f"USER: {user}: root, or a name of which Kubernetes cannot tell that it is not"
    environment = dict(
        re.findall(r"(\w+)=(\S+)", " ".join(rest for name, rest in steps if name == "ENV"))
    )
    if not environment.get("HOME", "").startswith("/home/"):
        yield "HOME: Ray's launcher takes it from here, and /root without it"
    if environment.get("RAY_AUTH_MODE") != "token":
        yield "RAY_AUTH_MODE: a start command that forgets it starts an open cluster"
    for path in copied(text):
        if not (REPOSITORY / path).exists():
            yield f"COPY: there is no {path}"
        if ignored(ignore, path):
            yield f"COPY: {path} stays out of the context"
    for path in (".git", ".venv", "results", ".env", "auth_token", "cluster", "tests"):
        if not ignored(ignore, path):
            yield f"{path} gets into the context"


def test_container_keeps_the_rules() -> None:
    assert container_problems(DOCKERFILE) == []


BROKEN = [
    ("BASE=python:3.11.14-slim-bookworm", "BASE=python:3.11-slim", "not a full version"),
    ("BASE=python:3.11.14-slim-bookworm", "BASE=python:latest", "not a full version"),
    ("BASE=python:3.11.14-slim-bookworm", "BASE=python", "not a full version"),
    ("--constraint constraints.txt hatchling", "hatchling", "not pinned by constraints.txt"),
    ("--constraint constraints.txt --no-build-isolation", "--no-build-isolation", "not pinned by constraints.txt"),
    ("USER ${UID}\n", "", "USER"),
    ("USER ${UID}", "USER root", "USER"),
    ("USER ${UID}", "USER ray", "USER"),
    ("ARG UID=1000", "ARG UID=0", "USER"),
    ("ENV HOME=/home/ray", "ENV HOME=/root", "HOME"),
    ("    RAY_AUTH_MODE=token \\\n", "", "RAY_AUTH_MODE"),
    ('ARG EXTRAS="', 'ARG HF_TOKEN=""\nARG EXTRAS="', "readable in the image"),
    ("ENV HOME", "ENV RAY_AUTH_TOKEN=abc\nENV HOME", "readable in the image"),
    ("ENV HOME", "ENV AWS_SECRET_ACCESS_KEY=abc\nENV HOME", "readable in the image"),
    ("COPY studies ./studies", "COPY study ./studies", "there is no study"),
    ("COPY studies ./studies", "COPY tests ./tests", "tests stays out"),
    ("COPY studies ./studies", "ADD studies ./studies", "ADD"),
    (" rsync", "", "missing: ['rsync']"),
    ("--no-install-recommends ", "", "more of Debian"),
    (' torch\n', ' torch transformers\n', "torch: not first"),
    ("    && pip check", "    && curl -fsSL https://example.org/x.sh -o x.sh", "fetches what nothing pins"),
    ("--mode=700 /scratch /state", "--mode=700 /scratch /state && chmod 777 /state", "more than it needs"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_a_broken_rule_is_seen(old: str, new: str, message: str) -> None:
    assert DOCKERFILE.count(old) >= 1, "the planted mistake would prove nothing"
    found = container_problems(DOCKERFILE.replace(old, new))
    assert any(message in problem for problem in found), found


@pytest.mark.parametrize(
    ("old", "new", "message"), [("*\n", "", "gets into"), ("!studies", "", "studies stays out")]
)
def test_a_wrong_context_is_seen(old: str, new: str, message: str) -> None:
    assert old in IGNORE
    assert any(
        message in problem
        for problem in container_problems(DOCKERFILE, IGNORE.replace(old, new, 1))
    )


def test_all_that_the_package_is_built_from_gets_in() -> None:
    """The wheel takes folders beside the package: the image would have no search spaces without
    them."""
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    build = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [
        *build["packages"],
        *build["force-include"],
        project["project"]["readme"],
        "pyproject.toml",
        "LICENSE",
    ]
    assert set(needed) <= set(copied(DOCKERFILE))
    extras = re.search(r'ARG EXTRAS="([\w,]+)"', DOCKERFILE)
    assert extras
    assert set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])


def test_docker_reads_it() -> None:
    """Docker's own check of the file, where there is a Docker; it builds nothing."""
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker daemon")
    command = [docker, "build", "--check", "--file", str(FOLDER / "Dockerfile"), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unknown flag" in done.stderr or "failed to resolve" in done.stderr:
        pytest.skip("Docker is too old for --check, or has no network")
    assert done.returncode == 0, done.stdout + done.stderr
