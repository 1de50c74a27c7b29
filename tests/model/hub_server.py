"""A small Hugging Face hub on a real socket: the endpoints that a download uses, with Range,
redirects of large files, and connections that break."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "a" * 40
LARGE = ".safetensors"  # stored as LFS: served by redirect, known by SHA-256


@dataclass
class Hub:
    """What the server holds and how it misbehaves; `log` has (method, path, Range)."""

    files: dict[str, bytes]
    repository: str = "org/tiny"
    cut: dict[str, list[int]] = field(default_factory=dict)  # file: bytes sent before each break
    tampered: dict[str, bytes] = field(default_factory=dict)  # sent instead of what is stated
    gated: bool = False
    broken: bool = False
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: list[tuple[str, str | None]] = field(default_factory=list)  # path, Authorization
    url: str = ""
    cdn_url: str = ""

    def fetched(self, name: str) -> list[str | None]:
        """The Range header of every GET that was answered with content of `name`."""
        place = "/cdn/" if name.endswith(LARGE) else f"/resolve/{COMMIT}/"
        return [r for m, p, r in self.log if m == "GET" and p.endswith(place + name)]

    def stated(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"size": len(content), "oid": blob, "blobId": blob}
        if name.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {
                "oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 130,
            }  # fmt: skip
        return entry


def from_directory(directory: Path) -> Hub:
    return Hub({p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()})


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Runs the hub and, on another port as on another host, the store of its large files."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=s.serve_forever, args=(0.02,)) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.log.append((self.command, path, self.headers.get("Range")))
        hub.tokens.append((path, self.headers.get("Authorization")))
        if hub.broken:
            self._send(503, {}, b"down")
        elif path.startswith(f"/api/models/{hub.repository}"):
            self._api(path.removeprefix(f"/api/models/{hub.repository}"))
        elif path.startswith(f"/{hub.repository}/resolve/{COMMIT}/"):
            self._resolve(path.rpartition("/")[2], body=body)
        elif path.startswith("/cdn/"):
            self._content(path.rpartition("/")[2], {}, body=body)
        else:
            self._send(404, {"X-Error-Code": "RepoNotFound"}, b"")

    def _api(self, rest: str) -> None:
        hub = self.hub
        if hub.gated:
            self._send(403, {"X-Error-Code": "GatedRepo"}, b"")
        elif rest in ("", "/revision/main", "/revision/v1", f"/revision/{COMMIT}"):
            siblings = [{"rfilename": name, **hub.stated(name)} for name in hub.files]
            self._json({"id": hub.repository, "sha": COMMIT, "siblings": siblings})
        elif rest.startswith("/revision/"):
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        else:
            self._json([{"type": "file", "path": n, **hub.stated(n)} for n in hub.files])

    def _resolve(self, name: str, *, body: bool) -> None:
        if name not in self.hub.files:
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
            return
        stated = self.hub.stated(name)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{stated["oid"]}"'}
        if "lfs" not in stated:
            self._content(name, headers, body=body)
            return
        headers["X-Linked-Size"] = str(stated["size"])
        headers["X-Linked-ETag"] = f'"{stated["lfs"]["oid"]}"'
        headers["Location"] = f"{self.hub.cdn_url}/cdn/{name}"
        self._send(302, headers, b"")

    def _content(self, name: str, headers: dict[str, str], *, body: bool) -> None:
        content = self.hub.tampered.get(name, self.hub.files[name])
        wanted = self.headers.get("Range")
        status, start = 200, 0
        if wanted is not None:
            status, start = 206, int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        breaks = self.hub.cut.get(name)
        if body and breaks:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(part))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(part[: breaks.pop(0)])
            self.close_connection = True
            return
        self._send(status, headers, part)

    def _json(self, value: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
