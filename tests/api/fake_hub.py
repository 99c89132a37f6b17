"""A hub of its own on this machine: the part of the Hugging Face hub's HTTP protocol that creating
a repository and uploading a folder need. The client is the real one.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_write"
READ_ONLY = "hf_read"
COMMIT = "1" * 40
LARGE = (".safetensors", "tokenizer.json")
"""Endings of what goes through the large-file protocol."""


@dataclass
class Repository:
    """Files by path, and who may see them."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})


@dataclass
class FakeHub:
    """What the hub knows, and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuses_commits: bool = False


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub that answers until the context ends."""
    hub = FakeHub()

    class Handler(_Answers):
        known = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


class _Answers(BaseHTTPRequestHandler):
    known: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._begin()
        if not self._may():
            return
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            role = "read" if READ_ONLY in self.headers["Authorization"] else "write"
            who = {"name": "me", "type": "user", "orgs": [{"name": "lab"}]}
            self._send(who | {"auth": {"accessToken": {"role": role}}})
            return
        name = path.removeprefix("/api/models/").removesuffix("/revision/main")
        found = self.known.repositories.get(name)
        if found is None:
            self._send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = [{"rfilename": one} for one in found.files]
        self._send(
            {"_id": "1", "id": name, "private": found.private, "sha": "0" * 40, "siblings": files}
        )

    def do_POST(self) -> None:
        body = self._begin()
        if not self._may():
            return
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif "/preupload/" in path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self._send({"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"{self.known.url}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._send({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self._commit(path.removeprefix("/api/models/").split("/commit/")[0], body)
        else:
            self._send({"error": f"unknown: {path}"}, 404)

    def do_PUT(self) -> None:
        body = self._begin()
        oid = self.path.removeprefix("/store/")
        good = hashlib.sha256(body).hexdigest() == oid
        if good:
            self.known.objects[oid] = body
        self._send({}, 200 if good else 400)

    def _begin(self) -> bytes:
        self.known.asked.append(f"{self.command} {self.path.partition('?')[0]}")
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _may(self) -> bool:
        if self.headers.get("Authorization") in (f"Bearer {TOKEN}", f"Bearer {READ_ONLY}"):
            return True
        self._send({"error": "Invalid credentials"}, 401)
        return False

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        private = asked.get("private", asked.get("visibility") == "private")
        if name in self.known.repositories:
            self._send({"error": "exists", "url": f"{self.known.url}/{name}"}, 409)
            return
        self.known.repositories[name] = Repository(bool(private))
        self._send({"url": f"{self.known.url}/{name}", "name": name, "id": "1"})

    def _validate(self, content: str) -> None:
        """A base that is no hub id is an error there too."""
        front = yaml.safe_load(content.split("---\n")[1])
        base = front.get("base_model", "a/b")
        if base.count("/") == 1 and not base.startswith(("/", ".")):
            self._send({"errors": [], "warnings": []})
        else:
            self._send({"errors": [{"message": f"base_model {base} is not valid"}]}, 400)

    def _commit(self, name: str, body: bytes) -> None:
        if self.known.refuses_commits:
            self._send({"error": "Your storage is full"}, 403)
            return
        files = self.known.repositories[name].files
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.known.objects[value["oid"]]
        url = f"{self.known.url}/{name}/commit/{COMMIT}"
        self._send({"success": True, "commitOid": COMMIT, "commitUrl": url})

    def _send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
