"""A real HTTP server on loopback that serves one file and misbehaves as it is told."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """How the server answers. `answers` counts down: the fault applies to that many requests, then all is well.

    break_after: bytes of a body after which the connection is closed. status: answered instead of the file.
    stall_after: bytes of a body after which nothing comes any more. lost_from: offset in the file from which on every answer
    breaks off. pause: seconds before each piece of a body.
    shift: a range request is answered with the range that begins this many bytes later.
    """

    content: bytes
    etag: str | None = '"1"'
    modified: str | None = None
    ranges: bool = True
    length: bool = True
    content_type: str = "application/octet-stream"
    status: int = 200
    break_after: int | None = None
    stall_after: int | None = None
    lost_from: int | None = None
    pause: float = 0.0
    piece: int = 1 << 16
    shift: int = 0
    location: str | None = None
    answers: int | None = None
    pages: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What was asked and how it was answered."""

    path: str
    range: str | None
    if_range: str | None
    status: int


class FaultyServer:
    """`with FaultyServer(behaviour) as server`: server.url is the file, server.requests what was asked so far."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self.stop = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True

    def __enter__(self) -> FaultyServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.root}/weights.pth"


class _Handler(BaseHTTPRequestHandler):
    owner: FaultyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        behaviour = self.owner.behaviour
        faulty = behaviour.answers != 0
        if behaviour.answers:
            behaviour.answers -= 1
        self.close_connection = True
        page = behaviour.pages.get(self.path)
        if page is not None:
            self._start(200, {"Content-Type": "application/json", "Content-Length": str(len(page))})
            self.wfile.write(page)
        elif behaviour.location and not self.path.startswith("/moved"):
            self._start(302, {"Location": behaviour.location, "Content-Length": "0"})
        elif faulty and behaviour.status != 200:
            self._start(behaviour.status, {"Content-Length": "0"})
        else:
            self._send_file(behaviour, faulty)

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.owner.requests.append(Request(self.path, self.headers.get("Range"), self.headers.get("If-Range"), status))
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():  # or a client might ask again on a closing connection
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, behaviour: Behaviour, faulty: bool) -> None:
        total = len(behaviour.content)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        partial = behaviour.ranges and asked and self.headers.get("If-Range") in (None, behaviour.etag, behaviour.modified)
        first = int(asked[1]) + behaviour.shift if partial else 0
        if partial and first >= total:
            self._start(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
            return
        headers = {"Content-Type": behaviour.content_type}
        if behaviour.length:
            headers["Content-Length"] = str(total - first)
        if behaviour.etag:
            headers["ETag"] = behaviour.etag
        if behaviour.modified:
            headers["Last-Modified"] = behaviour.modified
        if partial:
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        self._start(206 if partial else 200, headers)
        self._send_body(behaviour, behaviour.content[first : behaviour.lost_from], faulty)

    def _send_body(self, behaviour: Behaviour, body: bytes, faulty: bool) -> None:
        limits = [at for at in (behaviour.break_after, behaviour.stall_after) if at is not None]
        end = min([*limits, len(body)]) if faulty else len(body)
        try:
            for at in range(0, end, behaviour.piece):
                time.sleep(behaviour.pause)
                self.wfile.write(body[at : min(at + behaviour.piece, end)])
            if faulty and behaviour.stall_after is not None:
                self.owner.stop.wait(10)
        except (BrokenPipeError, ConnectionResetError):  # the client has given up, or was killed
            pass
