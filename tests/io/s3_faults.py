"""An S3 server on the loopback, and a proxy before it that throttles, drops connections and counts."""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}


@dataclass
class Faults:
    """Which requests go wrong, by (seed, request, how often it was asked before), and what was asked.

    Attributes
    ----------
    throttled, dropped : float
        Fractions of the requests answered 503 SlowDown, and of the answers cut in the middle of their body.
    requests, served : Counter
        Requests, and bytes sent, by "METHOD key".
    headers : list of dict
        Of every request.
    """

    throttled: float = 0.0
    dropped: float = 0.0
    seed: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    n_faults: int = 0
    _seen: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self, throttled: float = 0.0, dropped: float = 0.0) -> None:
        """Change the fractions and forget what was counted."""
        with self._lock:
            self.throttled, self.dropped, self.n_faults = throttled, dropped, 0
            for counter in (self.requests, self.served, self._seen):
                counter.clear()
            self.headers.clear()

    def fate(self, request: str) -> str:
        """What happens to a request: "throttled", "dropped" or "served"."""
        with self._lock:
            self._seen[request] += 1
            digest = hashlib.sha256(f"{self.seed} {request} {self._seen[request]}".encode()).digest()
            draw = int.from_bytes(digest[:8], "little") / 2**64
            fate = "served"
            if draw < self.throttled:
                fate = "throttled"
            elif draw < self.throttled + self.dropped:
                fate = "dropped"
            self.n_faults += fate != "served"
            return fate

    def count(self, request: str, n_bytes: int, headers: dict[str, str]) -> None:
        """Note a request."""
        with self._lock:
            self.requests[request] += 1
            self.served[request] += n_bytes
            self.headers.append(headers)


class Proxy:
    """A proxy on a free port of the loopback, in threads of this process."""

    def __init__(self, host: str, port: int) -> None:
        self.faults = Faults()
        handler = type("Handler", (_Handler,), {"faults": self.faults, "upstream": (host, port)})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Pass one request on, or let it go wrong."""

    protocol_version = "HTTP/1.1"
    faults: Faults
    upstream: tuple[str, int]

    def setup(self) -> None:
        self.request.settimeout(30)
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        body = self._body()
        request = f"{self.command} {unquote(urlsplit(self.path).path).lstrip('/')}"
        fate = self.faults.fate(f"{self.command} {self.path} {self.headers.get('Range')}")
        if fate == "throttled":
            self.faults.count(request, 0, dict(self.headers))
            self._answer(503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
            return
        connection = http.client.HTTPConnection(*self.upstream, timeout=30)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in {"connection", "transfer-encoding"}}
            headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
        cut = fate == "dropped" and len(content) > 1
        self.faults.count(request, len(content) // 2 if cut else len(content), dict(self.headers))
        if fate == "dropped" and not cut:
            self.close_connection = True  # nothing to cut: no answer at all
            return
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, kept, content, cut, length)

    def _body(self) -> bytes:
        """What the client sends, chunked or not."""
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, cut: bool = False, length: str | None = None
    ) -> None:
        """Send an answer, or half of it."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut


for _method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
    setattr(_Handler, f"do_{_method}", _Handler._handle)
