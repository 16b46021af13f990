"""HTTP on the loopback, a thread for each connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

from pgsched.testing.pushes import RESET, Reply

# Answers the request for a path, with its headers (names in lower case) and its body.
Take = Callable[[str, dict[str, str], bytes], Reply]


class Server(ThreadingHTTPServer):
    """Listens on a free port as soon as it is made."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, take: Take) -> None:
        self.take = take
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.take(self.path, headers, raw)
        time.sleep(reply.delay)
        if reply == RESET:
            self.close_connection = True
            return
        body = b"" if reply.body is None else orjson.dumps(reply.body)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A test reads no access log."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the worker was killed
            self.close_connection = True
