"""What a server answers to a request for a chat completion: the text, or what went wrong.

The form is that of OpenAI's API, read with patience: servers that speak it differ in how they
fail, and nothing that one sends raises anything but `Fault`.
"""

from __future__ import annotations

import json
import time
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx

LONGEST_RETRY_AFTER = 300.0  # seconds; an item that is to wait longer fails, for a later rerun
AGAIN = {408, 425, 429}  # statuses that may pass, besides 5xx


class Fault(Exception):
    """A try that gave no answer: why, whether to try again, and after how many seconds."""

    def __init__(self, problem: str, again: bool = True, after: float = 0.0, usage=(0, 0)) -> None:
        super().__init__(problem)
        self.again = again and after <= LONGEST_RETRY_AFTER
        self.after, self.usage = after, usage


def read(body: bytes) -> tuple[str, tuple[int, int]]:
    """The text of a chat completion, and its tokens in and out; raises Fault."""
    reply = _parsed(body)
    usage = reply.get("usage") if isinstance(reply, dict) else None
    tokens = tuple(_natural(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    try:
        choice = reply["choices"][0]
        said = choice["message"]["content"]
        if isinstance(said, list):  # some servers answer in parts, as they are asked
            said = "".join(part.get("text", "") for part in said)
        text = (said or "").strip()
    except (LookupError, TypeError, AttributeError):
        problem = f"malformed answer: {_complaint(reply) or 'no JSON'}"
        raise Fault(problem, usage=tokens) from None
    if not text:
        raise Fault(f"empty answer (finish_reason: {choice.get('finish_reason')})", usage=tokens)
    return text.encode("utf-8", "replace").decode(), tokens  # JSON can hold half characters


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _natural(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and 0 <= value < 10**12 else 0


def _complaint(said: object) -> str:
    """The message in the JSON that a server answers with; else that JSON."""
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    if isinstance(said, str) or said is None:
        return said or ""
    return json.dumps(said, ensure_ascii=False)  # not as sent: escapes could spell the key


def refusal(status: int, body: bytes, retry_after: str) -> Fault:
    """The fault behind a response that is no success."""
    after = _retry_after(retry_after)
    problem = f"HTTP {status} {httpx.codes.get_reason_phrase(status)}".strip()
    if after > LONGEST_RETRY_AFTER:
        problem += f", to be asked again in {after:.0f} s"
    if status == 401:  # servers quote parts of the key here
        problem += ": the key is refused; right is a valid REALQA_ENDPOINT_KEY"
    elif said := _complaint(_parsed(body)):
        problem += f": {said}"
    return Fault(problem, again=status in AGAIN or status >= 500, after=after)


def _retry_after(header: str) -> float:
    """Seconds to wait by a Retry-After header, in seconds or a date; 0 if it says neither."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            seconds = date.timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return 0.0
    return seconds if seconds > 0 else 0.0
