"""An S3 server of a test's own: moto's, in a process of its own, on a free port of this machine.

Beside S3 it takes a list of faults, and tells what was asked of it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from typing import Any

__all__ = ["ENVIRONMENT", "ObjectServer", "object_server"]

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "a-test",
    "AWS_SECRET_ACCESS_KEY": "a-test",
    "AWS_EC2_METADATA_DISABLED": "true",
}

_OURS = {
    "X-Test": "yes",
    # By the scope of a signature the server knows which service is meant.
    "Authorization": "AWS4-HMAC-SHA256 Credential=a-test/20260101/us-east-1/s3/aws4_request",
}


@dataclass(frozen=True)
class ObjectServer:
    """A started one."""

    port: int
    bucket: str

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One request of the test's own: it meets no fault, and is not counted."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, _OURS)
            answer = connection.getresponse()
            got = answer.read()
        assert answer.status < 300, got
        return got

    def fail(self, *, times: int = 1, **fault: Any) -> None:
        """Answer the next so many requests (of a `method`, if named) with `status` and `code`;
        or let them wait for `hang` seconds and then answer them."""
        self.ask("POST", "/__fault", json.dumps({"times": times, **fault}).encode())

    def mend(self) -> None:
        """No faults any more, and nothing was asked yet."""
        self.ask("POST", "/__mend")

    def with_bucket(self, bucket: str) -> ObjectServer:
        """The same server, mended, with a new and empty bucket."""
        self.mend()
        self.ask("PUT", f"/{bucket}")
        return replace(self, bucket=bucket)

    def asked(self) -> list[str]:
        """`METHOD /path` of every request since then."""
        found: list[str] = json.loads(self.ask("GET", "/__asked"))
        return found

    def stored(self) -> list[str]:
        """Of all objects, sorted; the marks of folders left out."""
        listed = self.ask("GET", f"/{self.bucket}?list-type=2").decode()
        keys = (part.split("</Key>")[0] for part in listed.split("<Key>")[1:])
        return sorted(key for key in keys if not key.endswith("/"))


@contextlib.contextmanager
def object_server() -> Iterator[ObjectServer]:
    """A server without any bucket."""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield ObjectServer(int(child.stdout.readline()), "none")
    finally:
        child.stdin.close()  # it ends with whoever started it
        child.kill()
        child.wait()
        child.stdout.close()


class _Faults:
    """WSGI around moto's application."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._faults: list[dict[str, Any]] = []
        self._asked: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.startswith("/__"):
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("200 OK", [])
            return [self._control(path, body)]
        if "HTTP_X_TEST" in environ:
            return self._inner(environ, start)
        with self._lock:
            self._asked.append(f"{method} {path}")
            fault = next((f for f in self._faults if f.get("method", method) == method), None)
            if fault is not None:
                fault["times"] -= 1
                self._faults = [f for f in self._faults if f["times"] > 0]
        if fault is None and "HTTP_AUTHORIZATION" not in environ:
            fault = {"status": 403, "code": "AccessDenied"}
        if fault is None:
            return self._inner(environ, start)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        time.sleep(fault.get("hang", 0))
        status, code = fault.get("status", 503), fault.get("code", "ServiceUnavailable")
        start(f"{status} {code}", [("Content-Type", "application/xml")])
        said = f"<Error><Code>{code}</Code><Message>by order of a test</Message></Error>"
        return [] if method == "HEAD" else [b'<?xml version="1.0"?>' + said.encode()]

    def _control(self, path: str, body: bytes) -> bytes:
        with self._lock:
            if path == "/__fault":
                self._faults.append(json.loads(body))
            elif path == "/__mend":
                self._faults, self._asked = [], []
            return json.dumps(self._asked).encode()


def _serve() -> None:
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = _Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
