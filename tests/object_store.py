"""A real S3 server (moto's) in a process of its own, which answers badly where it is told to.

    python tests/object_store.py --errors 0.05 --slow 0.02 --slow-s 3

Prints its port, then serves until it is killed. `GET /_faults` says how often it did what. With
`--keep FOLDER` its objects are files there as well, and a server that is started again has them.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen
from xml.sax.saxutils import unescape

BUCKET = "studies"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
ERROR = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>injected</Message></Error>'

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"}
KEY = re.compile("<Key>(.*?)</Key>")

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Faulty:
    """A WSGI application that fails now and then: before the request is carried out, or after, when
    only the answer is lost."""

    def __init__(
        self, inner: Application, errors: float, slow: float, slow_s: float, seed: int
    ) -> None:
        self._inner = inner
        self._errors = errors
        self._slow = slow
        self._slow_s = slow_s
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/_faults":
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self.counts).encode()]
        with self._lock:
            draw, slow, kind = (
                self._random.random(),
                self._random.random(),
                self._random.choice((500, 503, 501)),
            )
            self.counts["requests"] += 1
            self.counts[environ["REQUEST_METHOD"]] += 1
            failing = draw < self._errors and environ["REQUEST_METHOD"] != "POST"
            if failing:
                self.counts[{500: "500", 503: "503", 501: "500 after it was done"}[kind]] += 1
            if slow < self._slow:
                self.counts["slow"] += 1
        if slow < self._slow:
            time.sleep(self._slow_s)
        if not failing:
            return self._inner(environ, start)
        if kind == 501:
            for _ in self._inner(environ, lambda *_: None):
                pass
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        code, status = (
            (b"SlowDown", "503 Slow Down")
            if kind == 503
            else (b"InternalError", "500 Internal Server Error")
        )
        start(status, [("Content-Type", "application/xml")])
        return [ERROR % code]


class Kept:
    """A WSGI application whose objects outlive its process.

    An object is a file `objects/<bucket>/<key>` before its request is answered, so whatever a
    client has been told is there after a kill. `requests/` names what is being carried out.
    """

    def __init__(self, inner: Application, folder: Path) -> None:
        from werkzeug.test import Client

        self._inner, self._client = inner, Client(inner)
        self._objects, self._requests = folder / "objects", folder / "requests"
        for place in (self._objects / BUCKET, self._requests):
            place.mkdir(parents=True, exist_ok=True)
        for path in self._requests.iterdir():
            path.unlink()
        self._client.put(f"/{BUCKET}")
        for path in sorted(self._objects.glob(f"{BUCKET}/**/*")):
            if path.is_file() and path.suffix != ".draft":
                name = path.relative_to(self._objects).as_posix()
                self._client.put(f"/{quote(name)}", data=path.read_bytes())

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        name = str(environ["PATH_INFO"]).strip("/")
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._inner(environ, start)
        changed = [name]
        if environ["QUERY_STRING"].startswith("delete"):
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = BytesIO(body)
            changed = [f"{name}/{unescape(key)}" for key in KEY.findall(body.decode())]
        mark = self._requests / f"{quote(changed[0], safe='')}.{threading.get_ident()}"
        mark.touch()
        try:
            answer = list(self._inner(environ, start))
            for one in changed:
                self._keep(one)
            return answer
        finally:
            mark.unlink()

    def _keep(self, name: str) -> None:
        if "/" not in name:
            return  # the bucket
        path = self._objects / name
        found = self._client.get(f"/{quote(name)}", headers=SIGNED)
        if found.status_code == 200:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{path.name}.{threading.get_ident()}.draft")
            draft.write_bytes(found.data)
            draft.replace(path)
        else:
            path.unlink(missing_ok=True)


def main() -> None:
    """Serve."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            """Nothing."""

    parser = argparse.ArgumentParser()
    parser.add_argument("--errors", type=float, default=0.0, help="share of requests")
    parser.add_argument("--slow", type=float, default=0.0, help="share of requests")
    parser.add_argument("--slow-s", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder in which the objects outlive the server")
    given = parser.parse_args()
    application: Application = DomainDispatcherApplication(create_backend_app)
    if given.keep is not None:
        application = Kept(application, given.keep)
    faulty = Faulty(application, given.errors, given.slow, given.slow_s, given.seed)
    server = make_server("127.0.0.1", given.port, faulty, threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()


class Store:
    """The server as tests see it."""

    def __init__(self, port: int, process: "subprocess.Popen[str]") -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.process = process
        self.environment = ENVIRONMENT | {"AWS_ENDPOINT_URL": self.endpoint}

    def client(self) -> Any:
        """boto3's, for looking at the objects without our code."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
        )

    def names(self, under: str = "") -> list[str]:
        """Keys of all objects, without the empty ones that stand for folders."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=under)
        return [
            o["Key"]
            for page in pages
            for o in page.get("Contents", [])
            if not o["Key"].endswith("/")
        ]

    def faults(self) -> dict[str, int]:
        """How often it did what."""
        with urlopen(f"{self.endpoint}/_faults") as answer:
            found: dict[str, int] = json.load(answer)
        return found


@contextmanager
def object_store(*arguments: str) -> Iterator[Store]:
    """A server with an empty bucket, for the duration."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        store = Store(int(process.stdout.readline()), process)
        for attempt in range(20):  # its own faults hit this, too
            try:
                store.client().create_bucket(Bucket=BUCKET)
                break
            except Exception:
                if attempt == 19:
                    raise
        yield store
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
