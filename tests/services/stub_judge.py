"""A judge for tests: an HTTP server on this machine that answers as it is told and keeps what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = '{"privacy": 2, "informativeness": 4, "hallucination": 1}'


@dataclass(frozen=True)
class Said:
    """One answer of the server. delay: seconds before it; text: the body instead of a chat completion."""

    content: str | None = GOOD
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    delay: float = 0.0


@dataclass
class Judge:
    """url: for --url. bodies, headers, paths: of the requests so far. say: called with a request's body."""

    url: str
    say: Callable[[dict[str, Any]], Said]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def script(self, *answers: Said) -> None:
        """These answers one after the other, the last one for ever."""
        left = list(answers)
        self.say = lambda body: left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def stub_judge() -> Iterator[Judge]:
    """A server for the time of the block; it answers GOOD until told otherwise."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                judge.bodies.append(body)
                judge.headers.append(dict(self.headers))
                judge.paths.append(self.path)
                said = judge.say(body)
            time.sleep(said.delay)
            completion = {"choices": [{"message": {"role": "assistant", "content": said.content}}]}
            data = (json.dumps(completion) if said.text is None else said.text).encode()
            try:
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # the client has given up waiting

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    judge = Judge(f"http://127.0.0.1:{server.server_port}/v1", lambda body: Said())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
