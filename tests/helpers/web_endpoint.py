"""A real web server that speaks the protocol of OpenAI-compatible endpoints, with its faults."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from PIL import Image

from realqa_utils.scoring.endpoints import Endpoint

KEY = "sk-Test/0123+Secret=="
CERTIFICATES = httpx.create_ssl_context()
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as by real servers
    disable_nagle_algorithm = True  # else each answer takes 40 ms

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        play = self.server.next_play(self, request)
        play(self, request)

    def reply(self, status: int, body: str | bytes, reason: str | None = None, **headers) -> None:
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status, reason)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Plays the script, one entry a request, then answers `answer to <question>`."""

    def __init__(self, script: tuple[Callable, ...]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.keys = list(script), [], []
        self.lock, self.free = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def next_play(self, handler: Handler, request: dict) -> Callable:
        with self.lock:
            self.requests.append((handler.path, request))
            self.keys.append(handler.headers["Authorization"])
            return self.script.pop(0) if self.script else answered

    def handle_error(self, *_) -> None:  # a client that went away is part of the tests
        pass

    def stop(self) -> None:
        self.free.set()
        self.shutdown()
        self.server_close()
        self.thread.join()

    @property
    def questions(self) -> list[str]:
        return [question_of(request) for _, request in self.requests]


def question_of(request: dict) -> str:
    return request["messages"][0]["content"][1]["text"]


def photo_of(request: dict) -> Image.Image:
    head, _, data = request["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["JPEG"])


def completion(text: object) -> str:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": USAGE})


def answered(handler: Handler, request: dict) -> None:
    handler.reply(200, completion(f"answer to {question_of(request)}"))


def says(status: int, body: str | bytes, reason: str | None = None, **headers) -> Callable:
    return lambda handler, request: handler.reply(status, body, reason, **headers)


def refuses(status: int, message: str = "no", **headers) -> Callable:
    return says(status, json.dumps({"error": {"message": message}}), **headers)


def holds(handler: Handler, request: dict) -> None:
    """No answer until the test is over."""
    handler.server.free.wait(5)
    handler.close_connection = True


def drips(handler: Handler, request: dict) -> None:
    """A byte now and then: never silent for long, and never at an end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(300):
        handler.server.free.wait(0.01)
        handler.wfile.write(b" ")
    handler.close_connection = True


def hangs_up(handler: Handler, request: dict) -> None:
    handler.close_connection = True


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    # No TLS here, and reading the certificates anew for each client takes longer than a test.
    monkeypatch.setattr(httpx, "Client", partial(httpx.Client, verify=CERTIFICATES))
    servers = []

    def start(*script: Callable) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def at(server: Server, key: str = KEY, **prices) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "a-model", key, **prices)
