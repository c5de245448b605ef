"""An object store of a test's own, in a process of its own, on a free port of this machine.

It speaks S3 (moto) or Google's protocol (gcp-storage-emulator); beside that it takes a list of
faults, and tells what was asked of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from typing import Any

__all__ = ["ENVIRONMENT", "KINDS", "ObjectServer", "object_server"]

KINDS = {"s3": "moto", "gs": "gcp_storage_emulator"}
"""What each is of."""

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

    kind: str
    """`s3` or `gs`."""
    port: int
    bucket: str

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The bucket's."""
        return f"{self.kind}://{self.bucket}"

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        """One request of the test's own: it meets no fault, and is not counted."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, _OURS | headers)
            answer = connection.getresponse()
            got = answer.read()
        assert answer.status < 300, got
        return got

    def fail(self, *, times: int = 1, **fault: Any) -> None:
        """Answer the next so many requests (of a `method`, or with words in their `query`, if
        named) with `status` and `code`; or let them wait for `hang` seconds and then answer."""
        self.ask("POST", "/__fault", json.dumps({"times": times, **fault}).encode())

    def mend(self) -> None:
        """No faults any more, and nothing was asked yet."""
        self.ask("POST", "/__mend")

    def with_bucket(self, bucket: str) -> ObjectServer:
        """The same server, mended, with a new and empty bucket."""
        self.mend()
        if self.kind == "gs":
            said = json.dumps({"name": bucket}).encode()
            self.ask("POST", "/storage/v1/b", said, **{"Content-Type": "application/json"})
        else:
            self.ask("PUT", f"/{bucket}")
        return replace(self, bucket=bucket)

    def asked(self) -> list[str]:
        """`METHOD /path` of every request since then."""
        found: list[str] = json.loads(self.ask("GET", "/__asked"))
        return found

    def stored(self) -> list[str]:
        """The keys of all objects, sorted; the marks of folders left out."""
        if self.kind == "gs":
            items = json.loads(self.ask("GET", f"/storage/v1/b/{self.bucket}/o"))["items"]
            return sorted(item["name"] for item in items)
        listed = self.ask("GET", f"/{self.bucket}?list-type=2").decode()
        keys = (part.split("</Key>")[0] for part in listed.split("<Key>")[1:])
        return sorted(key for key in keys if not key.endswith("/"))


@contextlib.contextmanager
def object_server(kind: str) -> Iterator[ObjectServer]:
    """A server without any bucket."""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield ObjectServer(kind, int(child.stdout.readline()), "none")
    finally:
        child.stdin.close()  # it ends with whoever started it
        child.kill()
        child.wait()
        child.stdout.close()


class _Faults:
    """WSGI around the application of the one or the other."""

    def __init__(self, kind: str, inner: Any) -> None:
        self._s3 = kind == "s3"
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
            query = environ["QUERY_STRING"]
            fault = next(
                (
                    fault
                    for fault in self._faults
                    if fault.get("method", method) == method and fault.get("query", "") in query
                ),
                None,
            )
            if fault is not None:
                fault["times"] -= 1
                self._faults = [f for f in self._faults if f["times"] > 0]
        if fault is None and self._s3 and "HTTP_AUTHORIZATION" not in environ:
            fault = {"status": 403, "code": "AccessDenied"}
        if fault is None:
            return self._inner(environ, start)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        time.sleep(fault.get("hang", 0))
        status, code = fault.get("status", 503), fault.get("code", "ServiceUnavailable")
        said = f"<Error><Code>{code}</Code><Message>by order of a test</Message></Error>"
        if not self._s3:
            said = json.dumps({"error": {"code": status, "message": "by order of a test"}})
        said = fault.get("body", said)
        form = "application/xml" if self._s3 else "application/json"
        start(f"{status} {code}", [("Content-Type", form)])
        return [] if method == "HEAD" else [said.encode()]

    def _control(self, path: str, body: bytes) -> bytes:
        with self._lock:
            if path == "/__fault":
                self._faults.append(json.loads(body))
            elif path == "/__mend":
                self._faults, self._asked = [], []
            return json.dumps(self._asked).encode()


class _Google:
    """The emulator's handlers behind WSGI; one request at a time, as its own server has it."""

    def __init__(self) -> None:
        from gcp_storage_emulator.storage import Storage

        self._storage = Storage(use_memory_fs=True)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        from gcp_storage_emulator.server import Router

        request = _Request(environ, self._storage)
        with self._lock:
            Router(request).handle(environ["REQUEST_METHOD"])
        start(request.status, request.answered)
        return [request.wfile.getvalue()]


class _Request:
    """What the handlers use of `http.server.BaseHTTPRequestHandler`."""

    def __init__(self, environ: dict[str, Any], storage: Any) -> None:
        from werkzeug.datastructures import EnvironHeaders

        self.path = environ["RAW_URI"]
        self.headers = EnvironHeaders(environ)
        self.rfile = environ["wsgi.input"]
        self.server = self  # of which they want the address
        self.server_address = (environ["SERVER_NAME"], environ["SERVER_PORT"])
        self.storage = storage
        self.status = ""
        self.answered: list[tuple[str, str]] = []
        self.wfile = io.BytesIO()

    def send_response(self, status: int, phrase: str) -> None:
        self.status = f"{status} {phrase}"

    def send_header(self, name: str, value: str) -> None:
        self.answered.append((name, value))

    def end_headers(self) -> None:
        pass


def _serve(kind: str) -> None:
    import logging

    from werkzeug.serving import make_server

    logging.disable(logging.WARNING)
    if kind == "gs":
        application = _Faults(kind, _Google())
    else:
        from moto.server import DomainDispatcherApplication, create_backend_app

        application = _Faults(kind, DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1])
