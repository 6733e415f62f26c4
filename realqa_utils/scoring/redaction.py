"""Keeping a key out of everything that is shown or kept: texts, errors, lines in logs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

HIDDEN = "[key]"
LOGGERS = (
    "httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy",
    "httpcore.socks",
)  # fmt: skip


def redact(text: str, key: str) -> str:
    """The text with the key cut out: in capitals or not, and as JSON and URLs spell it.

    >>> redact("Bearer S3cret/key is unknown", "s3cret/key")
    'Bearer [key] is unknown'
    """
    spellings = (key, quote(key, safe=""), key.replace("/", "\\/"))
    return re.sub("|".join(map(re.escape, spellings)), HIDDEN, text, flags=re.IGNORECASE)


@contextmanager
def hidden_in_logs(key: str) -> Iterator[None]:
    """Servers may echo a header, and at level DEBUG the library writes theirs into its log."""

    def hide(record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), key), ()
        return True

    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(hide)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(hide)


def one_line(text: str, key: str) -> str:
    """The text in one line of at most 300 characters, without the key.

    The key goes first, so that no cut leaves half of it.
    """
    text = " ".join(redact(text, key).encode("utf-8", "replace").decode().split())
    return text if len(text) <= 300 else text[:299] + "…"
