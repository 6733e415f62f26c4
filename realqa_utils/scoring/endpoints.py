"""General models as opponents: questions about photos for any OpenAI-compatible endpoint.

Answers cost money and come over a network, so each is kept on disk as soon as it is there: a rerun
pays for failures only. The key is in the header of the requests and nowhere else: it is cut out
of whatever a server says, whether that becomes an answer, a problem, a file or a line in a log.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

import httpx
import numpy as np
from PIL import Image
from tqdm import tqdm

from realqa_utils.images.photos import open_photo
from realqa_utils.records.results import write_json
from realqa_utils.scoring import completions
from realqa_utils.scoring.completions import Fault
from realqa_utils.scoring.redaction import HIDDEN, hidden_in_logs, one_line, redact

LONGEST_SIDE = 1024  # pixels sent; larger photos are made smaller, none is made larger
JPEG_QUALITY = 95
FIRST_WAIT = 1.0  # seconds before the second try; each later wait is twice as long
LONGEST_BACK_OFF = 60.0  # seconds
SHORTEST_KEY = 8  # characters; a word like "none" could not be cut out of answers unnoticed


@dataclass(frozen=True)
class Endpoint:
    """A model behind a URL like https://host/v1. Prices are per million tokens; 0: unknown.

    Raises:
        ValueError: not such a URL, no model, a key that no header can hold, a negative price.
    """

    base_url: str
    model: str
    key: str = field(repr=False, compare=False)
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        _check_key(self.key)
        url = self.base_url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        object.__setattr__(self, "base_url", url)
        if HIDDEN in redact(url + self.model, self.key):
            raise ValueError("the key is in base_url or model; right is the key in key alone")
        _check_url(url)
        if not self.model:
            raise ValueError("model is empty; right is the name that the endpoint gives its model")
        for price in (self.price_in, self.price_out):
            if not 0 <= price < math.inf:
                raise ValueError(f"price {price}; right is a number from 0, per million tokens")

    @classmethod
    def from_environment(cls) -> Endpoint:
        """REALQA_ENDPOINT_URL, _MODEL and _KEY, and perhaps _PRICE_IN and _PRICE_OUT.

        Raises:
            ValueError: a variable is missing or holds no number; the error names it.
        """
        names = [f"REALQA_ENDPOINT_{part}" for part in ("URL", "MODEL", "KEY")]
        values = [os.environ.get(name, "").strip() for name in names]
        missing = [name for name, value in zip(names, values, strict=True) if not value]
        if missing:
            raise ValueError(
                f"{', '.join(missing)}: not set in the environment; right is the URL of an "
                "OpenAI-compatible endpoint (https://host/v1), a model that it has, and a key"
            )
        return cls(*values, *map(_price, ("REALQA_ENDPOINT_PRICE_IN", "REALQA_ENDPOINT_PRICE_OUT")))


@dataclass(frozen=True)
class Answer:
    """What came of one job: `text`, or why there is none in `problem`.

    Tokens are those that the server counted, failed tries included; of an answer out of the
    cache (`cached`) they were paid for in an earlier run.
    """

    text: str = ""
    problem: str = ""
    cached: bool = False
    tokens_in: int = 0
    tokens_out: int = 0


def ask(
    endpoint: Endpoint,
    jobs: Iterable[tuple[str, str | Path | None]],
    cache: str | Path,
    concurrency: int = 4,
    retries: int = 5,
    timeout: float = 60.0,
    max_tokens: int = 512,
    temperature: float = 0.0,
    progress: bool = True,
    seed: int = 0,
    sleep: Callable[[float], object] | None = None,
) -> list[Answer]:
    """One answer per job (question, photo), in the order of the jobs; the photo may be None.

    A job that fails has a problem instead of a text, and the others go on. Tried again are: no
    connection, time-outs, 408, 425, 429 and 5xx, and answers that are malformed or empty.

    Args:
        cache: a folder with one small file per answer, named by a hash of the base URL and the
            request. Failures are not kept.
        concurrency: the most requests under way at any time.
        retries: further tries after the first. The wait doubles each time, with jitter, on top
            of what a Retry-After header asks for.
        timeout: seconds that a server may be silent, and that a try may take in all.
        seed: of the jitter; the waits of a job follow from it and the job's position.
        sleep: waits so many seconds, where a test does not want to.

    Raises:
        ValueError: a limit out of range.
    """
    _check_limits(concurrency, retries, timeout, max_tokens)
    stop = Event()
    Path(cache).mkdir(parents=True, exist_ok=True)
    settings = {"max_tokens": max_tokens, "temperature": temperature}
    with hidden_in_logs(endpoint.key), _client(endpoint, concurrency, timeout) as client:
        batch = _Batch(
            endpoint, client, Path(cache), settings, retries, timeout, sleep or stop.wait, stop
        )
        tasks = [
            (question, photo, np.random.default_rng([seed, index]))
            for index, (question, photo) in enumerate(jobs)
        ]
        return _run(batch, tasks, concurrency, progress)


def _run(batch: _Batch, tasks: list[tuple], concurrency: int, progress: bool) -> list[Answer]:
    answers, tally = [Answer()] * len(tasks), Counter()
    show = {"total": len(tasks), "desc": batch.endpoint.model, "disable": not progress}
    with ThreadPoolExecutor(concurrency) as pool, tqdm(file=sys.stdout, **show) as bar:
        try:
            futures = {pool.submit(_answer, batch, *task): at for at, task in enumerate(tasks)}
            for future in as_completed(futures):
                answers[futures[future]] = answer = future.result()
                bar.set_postfix_str(_summary(batch.endpoint, tally, answer), refresh=False)
                bar.update()
        except BaseException:  # cut off: send nothing new, but keep what is already paid for
            batch.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return answers


# --- one job -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """What the workers share."""

    endpoint: Endpoint
    client: httpx.Client
    cache: Path
    settings: dict
    retries: int
    timeout: float
    sleep: Callable[[float], object]
    stop: Event
    locks: dict[str, Lock] = field(default_factory=dict)


def _answer(
    batch: _Batch, question: str, photo: str | Path | None, rng: np.random.Generator
) -> Answer:
    """The answer out of the cache or from the endpoint; whatever goes wrong becomes a problem."""
    key = batch.endpoint.key
    if not (isinstance(question, str) and question.strip()):
        return Answer(problem="no question; right is a text")
    try:
        # In the name, the digest stands for the photo: the cache outlives a change of encoder.
        label = photo and f"{_digest(photo)} {LONGEST_SIDE} {JPEG_QUALITY}"
        named = [batch.endpoint.base_url, _request(batch, question, label)]
        name = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
        path = batch.cache / f"{name}.json"
        with batch.locks.setdefault(name, Lock()):  # the same job twice in a batch is paid once
            if kept := _kept(path):
                return kept
            answer = _try(batch, _request(batch, question, photo and _data_url(photo)), rng)
            if answer.text:
                _keep(path, answer, batch.endpoint.model, redact(question, key))
            return answer
    except Exception as error:  # an odd photo or a bug costs one item, not the batch
        return Answer(problem=one_line(str(error) or type(error).__name__, key))


def _request(batch: _Batch, question: str, image_url: str | None) -> dict:
    content: str | list = question  # which a model without eyes takes too
    if image_url:
        image = {"type": "image_url", "image_url": {"url": image_url}}
        content = [image, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    return {"model": batch.endpoint.model, "messages": messages, **batch.settings}


def _digest(photo: str | Path) -> str:
    if not os.path.isfile(photo):
        raise FileNotFoundError(f"{photo}: no such file; right is the path of a photo")
    with open(photo, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _data_url(photo: str | Path) -> str:
    """The photo as JPEG with full colour resolution, at most LONGEST_SIDE pixels long."""
    image, buffer = open_photo(photo), io.BytesIO()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _try(batch: _Batch, request: dict, rng: np.random.Generator) -> Answer:
    """Send a request until it is answered or there is no point in sending it again."""
    key, usage = batch.endpoint.key, np.zeros(2, dtype=int)
    for attempt in range(batch.retries + 1):
        try:
            text, tokens = completions.read(_post(batch, request))
            usage += tokens
            return Answer(redact(text, key), "", False, *usage.tolist())
        except Fault as caught:
            fault = caught
        usage += fault.usage
        if not fault.again or attempt == batch.retries or batch.stop.is_set():
            break
        back_off = min(FIRST_WAIT * 2**attempt, LONGEST_BACK_OFF)
        batch.sleep(fault.after + back_off * rng.uniform(0.5, 1))
        if batch.stop.is_set():
            break
    tries = f" (after {attempt + 1} tries)" if attempt else ""
    return Answer("", one_line(str(fault), key) + tries, False, *usage.tolist())


def _post(batch: _Batch, request: dict) -> bytes:
    """The body of a good response."""
    ends = time.monotonic() + batch.timeout
    try:
        with batch.client.stream("POST", "chat/completions", json=request) as response:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > ends:  # httpx limits the wait for each chunk, not the sum
                    raise httpx.ReadTimeout("")
    except httpx.TimeoutException:
        raise Fault(f"no answer within {batch.timeout:g} s") from None
    except httpx.RequestError as error:
        raise Fault(f"connection failed: {error or type(error).__name__}") from None
    if response.is_success:
        return bytes(body)
    raise completions.refusal(response.status_code, body, response.headers.get("Retry-After", ""))


# --- cache ---------------------------------------------------------------------------------------


def _kept(path: Path) -> Answer | None:
    """The answer in a file of the cache; None if there is no such file or it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        text, *tokens = (record[name] for name in ("text", "tokens_in", "tokens_out"))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Answer(text, "", True, *tokens) if isinstance(text, str) and text else None


def _keep(path: Path, answer: Answer, model: str, question: str) -> None:
    record = {"model": model, "question": question, "text": answer.text}
    record |= {"tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out}
    try:
        write_json(path, record)
    except (OSError, ValueError) as error:  # paid for: hand it over all the same
        warnings.warn(f"{path}: answer not kept ({error}); a rerun pays again", stacklevel=2)


def _client(endpoint: Endpoint, concurrency: int, timeout: float) -> httpx.Client:
    return httpx.Client(
        base_url=endpoint.base_url,
        headers={"Authorization": f"Bearer {endpoint.key}"},
        timeout=timeout,
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
    )


# --- progress ------------------------------------------------------------------------------------


def _summary(endpoint: Endpoint, tally: Counter, answer: Answer) -> str:
    """What the bar says once `answer` is added to the tally; the cost is that of this run."""
    tally["failed" if answer.problem else "answered"] += 1
    if not answer.cached:
        tally["tokens"] += answer.tokens_in + answer.tokens_out
        tally["cost"] += answer.tokens_in * endpoint.price_in / 1e6
        tally["cost"] += answer.tokens_out * endpoint.price_out / 1e6
    known = endpoint.price_in or endpoint.price_out
    price = f", cost {tally['cost']:.4f}" if known else ""
    return (
        f"{tally['answered']} answered, {tally['failed']} failed, {tally['tokens']:,} tokens{price}"
    )


# --- checks --------------------------------------------------------------------------------------


def _check_limits(concurrency: int, retries: int, timeout: float, max_tokens: int) -> None:
    if concurrency < 1 or retries < 0 or not timeout > 0 or max_tokens < 1:
        raise ValueError(
            f"concurrency {concurrency}, retries {retries}, timeout {timeout}, max_tokens "
            f"{max_tokens}; right is at least 1, 0, more than 0 seconds, and 1"
        )


def _check_key(key: str) -> None:
    """The error does not show the key."""
    plain = key.isascii() and key.isprintable() and not set(key) & set(" \"'\\<>&")
    if len(key) < SHORTEST_KEY or not plain:
        raise ValueError(
            f"the key (REALQA_ENDPOINT_KEY) is too short or has odd characters; right are "
            f"{SHORTEST_KEY} or more letters, digits and signs without spaces and quotes, for a "
            "server that asks for no key any such word"
        )


def _check_url(url: str) -> None:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL()
    wrong = parts.scheme not in ("http", "https") or not parts.host
    if wrong or parts.userinfo or parts.query or parts.fragment:
        raise ValueError(
            "base_url (REALQA_ENDPOINT_URL) is no plain URL; right is https://host/v1, without "
            "a user, a password, or anything behind a question mark"
        )


def _price(name: str) -> float:
    try:
        return float(os.environ.get(name, "").strip() or 0)
    except ValueError:
        raise ValueError(f"{name}: no number; right is a price per million tokens") from None
