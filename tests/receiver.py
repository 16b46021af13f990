"""An external system under the test's control: it answers when, and what, the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from pgsched.testing.pushes import READY
from tests.waiting import eventually


class Push:
    """One push that has arrived and waits for its answer."""

    def __init__(self, raw: bytes, headers: dict[str, str]) -> None:
        self.raw = raw
        self.body: dict[str, Any] = orjson.loads(raw)
        self.headers = headers
        self.task_id: str = self.body["task_id"]
        self._answered = threading.Event()
        self._answer: tuple[int, bytes] = (202, b"")

    @property
    def is_news(self) -> bool:
        """Whether it tells of a status, and nothing is to be executed."""
        return bool(self.body["status"] != READY)

    def answer(self, code: int = 202, **body: Any) -> None:
        self._answer = code, orjson.dumps(body) if body else b""
        self._answered.set()

    def wait(self) -> tuple[int, bytes]:
        self._answered.wait(60)
        return self._answer


class Receiver:
    """Keeps every push; those that *holds* picks wait for `Push.answer()`, others get *code*."""

    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.holds: Callable[[Push], bool] = lambda push: False
        self.code = 202
        self.url = ""

    def of(self, task_id: str) -> list[Push]:
        return [push for push in self.pushes if push.task_id == task_id]

    def wait_for(self, count: int) -> list[Push]:
        """The pushes, once there are *count*."""
        eventually(lambda: len(self.pushes) >= count)
        return list(self.pushes)

    def take(self, push: Push) -> tuple[int, bytes]:
        holds = self.holds(push)
        self.pushes.append(push)
        if not holds:
            push.answer(self.code)
        return push.wait()


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            status, body = receiver.take(Push(raw, dict(self.headers)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # the worker was killed
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        for push in receiver.pushes:
            push.answer()
        server.shutdown()
        thread.join()
        server.server_close()
