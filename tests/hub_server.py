"""A hub on loopback: enough of the hub's HTTP interface to serve one folder, and to misbehave in the known ways."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `folder` as every repository; the repository's name chooses how: `org/gated`, `org/slow`, ..."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.broken_off = 0
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are part of the tests."""


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


ANSWERS = {
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "missing": (401, {"X-Error-Code": "RepoNotFound"}),
    "gone": (404, {}),
    "badtoken": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "forbidden": (403, {}),
    "limited": (429, {}),
    "failing": (500, {}),
}


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.server.tokens.add(self.headers.get("Authorization"))
        parts = self.path.split("?")[0].strip("/").split("/")
        kind = parts[3] if parts[:2] == ["api", "models"] else parts[1]
        if kind == "slow":
            time.sleep(3)
        if kind in ANSWERS:
            status, headers = ANSWERS[kind]
            self._send(status, b"{}", headers)
        elif parts[:2] == ["api", "models"]:
            self._describe(kind)
        elif (self.server.folder / parts[-1]).is_file():
            self._file(kind, parts[-1])
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    def _describe(self, kind: str) -> None:
        names = sorted(each.name for each in self.server.folder.iterdir())
        names += ["README.md", "consolidated.safetensors", "pytorch_model.bin"]
        if kind == "pickled":
            names.remove("model.safetensors")
        siblings = [{"rfilename": each} for each in names]
        self._send(200, json.dumps({"id": f"org/{kind}", "sha": COMMIT, "siblings": siblings}).encode())

    def _file(self, kind: str, name: str) -> None:
        content = (self.server.folder / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        weights = name.endswith(".safetensors")
        if kind == "damaged" and weights and self.command == "GET":
            content = bytes([content[0] ^ 1]) + content[1:]
        if kind == "longer" and weights and self.command == "GET":
            content += b"more"
        start = self.headers.get("Range", "")
        self.server.ranges += [start] if start else []
        if start.startswith("bytes="):
            first = int(start[6:].split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self._send(206, content[first:], headers)
        elif kind == "breaking" and weights and self.command == "GET" and not self.server.broken_off:
            self.server.broken_off += 1
            self._send(200, content, headers, cut=len(content) // 2)
        else:
            self._send(200, content, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True
