"""Answers of a model behind a web address: a real server speaks the protocol with its faults."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import web_endpoint
from PIL import Image
from web_endpoint import (
    KEY,
    USAGE,
    Handler,
    answered,
    at,
    completion,
    drips,
    hangs_up,
    holds,
    photo_of,
    question_of,
    refuses,
    says,
)

from realqa_utils.scoring import completions, endpoints, redaction
from realqa_utils.scoring.endpoints import Answer, Endpoint, ask

serve = web_endpoint.serve  # a real server that plays a script


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 24), "teal").save(path)
    return path


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., list[Answer]]:
    """`ask` with a cache of the test's own, without waiting and without a bar."""

    def call(endpoint: Endpoint, jobs: list, **options) -> list[Answer]:
        quick = {"sleep": lambda seconds: None, "progress": False}
        return ask(endpoint, jobs, tmp_path / "cache", **(quick | options))

    return call


# --- the request ---------------------------------------------------------------------------------


def test_a_request_has_the_form_of_the_protocol(serve, photo, put):
    server = serve()
    (answer,) = put(at(server), [("Is it sharp?", photo)], max_tokens=77, temperature=0.5)
    assert answer == Answer("answer to Is it sharp?", "", False, 100, 20)
    ((path, request),) = server.requests
    assert path == "/v1/chat/completions"
    assert server.keys == [f"Bearer {KEY}"]
    (message,) = request.pop("messages")
    assert request == {"model": "a-model", "max_tokens": 77, "temperature": 0.5}
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][1] == {"type": "text", "text": "Is it sharp?"}


def test_each_question_is_sent_with_its_own_photo(serve, tmp_path, put):
    colours = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
    for name in colours:
        Image.new("RGB", (16, 16), name).save(tmp_path / f"{name}.png")
    server = serve()
    put(at(server), [(name, tmp_path / f"{name}.png") for name in colours], concurrency=3)
    assert len(server.requests) == 3
    for _, request in server.requests:
        pixels = np.asarray(photo_of(request), dtype=int)
        assert np.abs(pixels - colours[question_of(request)]).max() <= 3


def test_large_photos_are_sent_smaller_small_ones_as_they_are_and_all_upright(serve, tmp_path, put):
    yellow_top = Image.new("RGB", (40, 24))
    yellow_top.paste("yellow", (0, 0, 40, 12))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    yellow_top.rotate(180).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.new("RGB", (2048, 1024)).save(tmp_path / "large.png")
    server = serve()
    jobs = [(name, tmp_path / name) for name in ("turned.jpg", "large.png")]
    put(at(server), jobs, concurrency=1)
    turned, large = (photo_of(request) for _, request in server.requests)
    assert large.size == (1024, 512)
    assert turned.size == (40, 24)
    assert turned.getpixel((20, 3))[0] > 200 and turned.getpixel((20, 20))[0] < 50


@pytest.mark.parametrize("tail", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_url_may_be_written_with_or_without_its_end(serve, photo, put, tail):
    server = serve()
    endpoint = Endpoint(at(server).base_url + tail, "a-model", KEY)
    put(endpoint, [("q", photo)])
    assert endpoint == at(server)
    assert [path for path, _ in server.requests] == ["/v1/chat/completions"]


def test_a_text_in_parts_is_put_together(serve, photo, put):
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    (answer,) = put(at(serve(says(200, completion(parts)))), [("q", photo)])
    assert answer.text == "one two"


# --- many jobs -----------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_jobs_not_of_their_arrival(serve, photo, put):
    last_is_done = threading.Event()

    def first_waits(handler: Handler, request: dict) -> None:
        if question_of(request) == "0":
            assert last_is_done.wait(5)
        answered(handler, request)
        if question_of(request) == "5":
            last_is_done.set()

    server = serve(*[first_waits] * 6)
    answers = put(at(server), [(str(i), photo) for i in range(6)], concurrency=2)
    assert [answer.text for answer in answers] == [f"answer to {i}" for i in range(6)]


def test_as_many_requests_as_allowed_are_under_way_and_never_more(serve, photo, put):
    limit, lock, under_way, peaks = 3, threading.Lock(), [], []
    together = threading.Barrier(limit, timeout=5)  # breaks, if fewer are ever under way

    def meets(handler: Handler, request: dict) -> None:
        with lock:
            under_way.append(request)
            peaks.append(len(under_way))
        together.wait()
        with lock:  # before the answer, after which the client may send another
            under_way.pop()
        answered(handler, request)

    answers = put(
        at(serve(*[meets] * 9)), [(str(i), photo) for i in range(9)], concurrency=limit, retries=0
    )
    assert all(answer.text for answer in answers)
    assert max(peaks) == limit


def test_no_jobs_give_no_answers(serve, put):
    assert put(at(serve()), []) == []


def test_a_bad_job_has_a_problem_that_names_it_and_the_others_go_on(serve, tmp_path, photo, put):
    missing, text = tmp_path / "missing.jpg", tmp_path / "text.jpg"
    text.write_text("no photo")
    server = serve()
    jobs = [("q", missing), ("q", text), (" ", photo), (None, photo), ("\ud800", photo)]
    *bad, good = put(at(server), [*jobs, ("q", photo)])
    assert good.text == "answer to q"
    assert server.questions == ["q"]
    assert all(not answer.text and answer.problem for answer in bad)
    assert bad[0].problem == f"{missing}: no such file; right is the path of a photo"
    assert bad[1].problem.startswith(f"{text}: not a photo")
    assert bad[2].problem == bad[3].problem == "no question; right is a text"


# --- faults --------------------------------------------------------------------------------------

PASSING = {
    "429": refuses(429),
    "408": refuses(408),
    "500": refuses(500),
    "503 without JSON": says(503, "<html>upstream</html>"),
    "529, which has no name": refuses(529),
    "no JSON": says(200, '{"choices": [{"mess'),
    "no bytes": says(200, b""),
    "bytes of no text": says(200, b"\xff\xfe\x00"),
    "nested too deeply": says(200, "[" * 100_000),
    "JSON without choices": says(200, json.dumps({"error": {"message": "overloaded"}})),
    "a list": says(200, "[]"),
    "no choice": says(200, '{"choices": []}'),
    "a number for a text": says(200, completion(3)),
    "odd parts": says(200, completion([1, None])),
    "an empty answer": says(200, completion("")),
    "only spaces": says(200, completion(" \n")),
    "no text": says(200, completion(None)),
    "bad compression": says(200, b"no gzip", Content_Encoding="gzip"),
    "hanging up": hangs_up,
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_fault_that_may_pass_is_tried_again(serve, photo, put, fault):
    server, waits = serve(fault, fault), []
    (answer,) = put(at(server), [("q", photo)], sleep=waits.append)
    assert (answer.text, answer.problem) == ("answer to q", "")
    assert len(server.requests) == 3 and len(waits) == 2


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 413, 422])
def test_a_refusal_that_will_not_pass_is_not_tried_again(serve, photo, put, status):
    server, waits = serve(refuses(status, "the reason", Location="/elsewhere")), []
    (answer,) = put(at(server), [("q", photo)], sleep=waits.append)
    assert answer.text == ""
    assert answer.problem.startswith(f"HTTP {status} ")
    assert ("the reason" in answer.problem) == (status != 401)
    assert len(server.requests) == 1 and waits == []


def test_what_an_endpoint_gives_as_its_reason_is_told(serve, photo, put):
    bodies = ('{"error": "a"}', '{"detail": [{"msg": "é"}]}', '{"message": "c"}', "{}", "not JSON")
    server = serve(*[says(400, body) for body in bodies])
    answers = put(at(server), [(str(i), photo) for i in range(5)], concurrency=1)
    assert [answer.problem.removeprefix("HTTP 400 Bad Request") for answer in answers] == [
        ": a", ': [{"msg": "é"}]', ": c", ": {}", "",
    ]  # fmt: skip


def test_after_the_last_retry_there_is_a_problem_and_the_batch_goes_on(serve, photo, put):
    server = serve(*[refuses(500, "out of order")] * 3)
    jobs = [("bad", photo), ("good", photo)]
    bad, good = put(at(server), jobs, retries=2, concurrency=1)
    assert bad.text == ""
    assert bad.problem == "HTTP 500 Internal Server Error: out of order (after 3 tries)"
    assert good.text == "answer to good"
    assert server.questions == ["bad"] * 3 + ["good"]


@pytest.mark.parametrize("slow", [holds, drips])
def test_a_try_that_takes_too_long_is_given_up(serve, photo, put, slow):
    server = serve(slow, slow)
    (answer,) = put(at(server), [("q", photo)], timeout=0.1, retries=1)
    assert answer.problem == "no answer within 0.1 s (after 2 tries)"
    assert len(server.requests) == 2


def test_after_a_time_out_another_try_may_succeed(serve, photo, put):
    server = serve(holds)
    (answer,) = put(at(server), [("q", photo)], timeout=0.3, retries=9)
    assert answer.text == "answer to q"
    assert len(server.requests) >= 2


def test_a_refused_connection_is_tried_again_and_then_a_problem(serve, photo, put):
    server, waits = serve(), []
    endpoint = at(server)
    server.stop()
    (answer,) = put(endpoint, [("q", photo)], retries=2, sleep=waits.append)
    assert answer.text == ""
    assert answer.problem.startswith("connection failed: ")
    assert answer.problem.endswith("(after 3 tries)")
    assert len(waits) == 2


def test_an_empty_answer_says_why_the_model_stopped_and_counts_its_tokens(serve, photo, put):
    choice = {"message": {"content": ""}, "finish_reason": "length"}
    cut = says(200, json.dumps({"choices": [choice], "usage": USAGE}))
    server = serve(cut, cut, cut)
    (failed,) = put(at(server), [("q", photo)], retries=0)
    assert failed == Answer("", "empty answer (finish_reason: length)", False, 100, 20)
    (answer,) = put(at(server), [("q", photo)])
    assert answer == Answer("answer to q", "", False, 300, 60)  # the third try succeeds


# --- waiting -------------------------------------------------------------------------------------


def waits_of(serve, photo, put, question: str = "q", **options) -> list[float]:
    waits = []
    server = serve(*[refuses(500)] * 9)
    put(at(server), [(question, photo)], retries=8, sleep=waits.append, **options)
    return waits


def test_waits_double_up_to_a_minute_with_jitter_from_the_seed(serve, photo, put):
    waits = waits_of(serve, photo, put, seed=3)
    jitter = np.random.default_rng([3, 0]).uniform(0.5, 1, size=8)
    np.testing.assert_allclose(waits, np.array([1, 2, 4, 8, 16, 32, 60, 60]) * jitter)
    assert waits == waits_of(serve, photo, put, seed=3)
    assert waits != waits_of(serve, photo, put, seed=4)


def test_two_jobs_that_fail_together_do_not_come_back_together(serve, photo, put):
    waits = []
    server = serve(*[refuses(429)] * 2)
    put(at(server), [("a", photo), ("b", photo)], sleep=waits.append, concurrency=2)
    assert len(set(waits)) == 2


def test_retry_after_in_seconds_is_honoured(serve, photo, put):
    waits = []
    put(at(serve(refuses(429, Retry_After="7"))), [("q", photo)], sleep=waits.append)
    assert 7.5 <= waits[0] <= 8


def test_retry_after_as_a_date_is_honoured(serve, photo, put):
    waits = []
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    put(at(serve(refuses(503, Retry_After=date))), [("q", photo)], sleep=waits.append)
    assert 80 <= waits[0] <= 101


def test_who_is_to_wait_for_hours_fails_now(serve, photo, put):
    server, waits = serve(refuses(429, "quota", Retry_After="7200")), []
    (answer,) = put(at(server), [("q", photo)], sleep=waits.append)
    assert (
        answer.problem == "HTTP 429 Too Many Requests, to be asked again in 7200 s: quota"
        and len(server.requests) == 1
        and waits == []
    )


# --- the cache -----------------------------------------------------------------------------------


def test_a_rerun_sends_nothing_and_gives_the_same(serve, photo, put):
    server = serve()
    jobs = [(str(i), photo) for i in range(5)]
    first = put(at(server), jobs)
    second = put(at(server), jobs)
    assert len(server.requests) == 5
    assert [a.text for a in second] == [a.text for a in first]
    assert all(a.cached and (a.tokens_in, a.tokens_out) == (100, 20) for a in second)
    assert not any(a.cached for a in first)


def test_a_rerun_needs_no_server_and_no_valid_key(serve, photo, put):
    server = serve()
    put(at(server), [("q", photo)])
    server.stop()
    (answer,) = put(at(server, key="another-key"), [("q", photo)])
    assert answer.cached and answer.text == "answer to q"


def test_whatever_can_change_an_answer_has_an_answer_of_its_own(serve, photo, tmp_path, put):
    server, other = serve(), serve()
    brighter = tmp_path / "brighter.png"
    Image.new("RGB", (40, 24), "white").save(brighter)
    put(at(server), [("q", photo)])
    model = Endpoint(at(server).base_url, "another-model", KEY)
    for endpoint, job, options in [
        (at(server), ("another question", photo), {}),
        (at(server), ("q", brighter), {}),
        (at(server), ("q", photo), {"max_tokens": 9}),
        (at(server), ("q", photo), {"temperature": 1.0}),
        (model, ("q", photo), {}),
        (at(other), ("q", photo), {}),
    ]:
        (answer,) = put(endpoint, [job], **options)
        assert answer.text and not answer.cached
    assert (len(server.requests), len(other.requests)) == (6, 1)


def test_equal_jobs_in_one_batch_are_paid_once(serve, photo, tmp_path, put):
    copy = tmp_path / "copy.png"
    copy.write_bytes(photo.read_bytes())
    server = serve()
    answers = put(at(server), [("q", photo), ("q", photo), ("q", copy)], concurrency=3)
    assert len(server.requests) == 1
    assert [a.text for a in answers] == ["answer to q"] * 3
    assert sorted(a.cached for a in answers) == [False, True, True]


def test_failures_are_not_kept_so_a_rerun_asks_for_them_alone(serve, photo, put, tmp_path):
    server = serve(answered, refuses(400), says(200, completion("")))
    jobs = [("a", photo), ("b", photo), ("c", photo)]
    first = put(at(server), jobs, retries=0, concurrency=1)
    assert [bool(a.text) for a in first] == [True, False, False]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    second = put(at(server), jobs)
    assert [a.text for a in second] == [f"answer to {name}" for name in "abc"]
    assert [a.cached for a in second] == [True, False, False]


@pytest.mark.parametrize("content", ["", '{"text": "hal', "[]", "{}", '{"text": 3}', "\x00"])
def test_a_damaged_file_of_the_cache_is_asked_for_again_and_mended(
    serve, photo, put, tmp_path, content
):
    server = serve()
    put(at(server), [("q", photo)])
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_text()
    file.write_text(content)
    (answer,) = put(at(server), [("q", photo)])
    assert answer.text == "answer to q" and not answer.cached
    assert file.read_text() == whole


def test_a_file_of_the_cache_is_small_and_tells_what_it_is(serve, photo, put, tmp_path):
    put(at(serve()), [("Sharp?", photo)])
    (file,) = (tmp_path / "cache").iterdir()
    assert file.suffix == ".json" and file.stat().st_size < 400
    assert json.loads(file.read_text()) == {
        "model": "a-model", "question": "Sharp?", "text": "answer to Sharp?",
        "tokens_in": 100, "tokens_out": 20,
    }  # fmt: skip


def test_half_a_character_in_an_answer_can_be_kept(serve, photo, put):
    server = serve(says(200, completion("a \ud800 b")))
    put(at(server), [("q", photo)])
    assert put(at(server), [("q", photo)]) == [Answer("a ? b", "", True, 100, 20)]


def test_an_answer_that_cannot_be_kept_is_handed_over_with_a_warning(
    serve, photo, put, monkeypatch
):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(endpoints, "write_json", full)
    with pytest.warns(UserWarning, match="not kept .No space left"):
        (answer,) = put(at(serve()), [("q", photo)])
    assert answer.text == "answer to q"


def test_a_batch_that_is_cut_off_sends_no_more_and_keeps_what_is_paid(
    serve, photo, put, monkeypatch
):
    go_on = threading.Event()

    def cut_off(futures):
        yield next(iter(all_of_them(futures)))
        threading.Timer(0.05, go_on.set).start()  # the second is answered after the interruption
        raise KeyboardInterrupt

    def second(handler: Handler, request: dict) -> None:
        go_on.wait(5)
        answered(handler, request)

    server = serve(answered, second)
    jobs = [(str(i), photo) for i in range(9)]
    all_of_them = endpoints.as_completed
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(endpoints, "as_completed", cut_off)
        put(at(server), jobs, concurrency=1)
    assert server.questions == ["0", "1"]
    assert [a.cached for a in put(at(server), jobs, concurrency=1)] == [True] * 2 + [False] * 7


def test_a_wait_ends_when_the_batch_is_cut_off(serve, photo, put, monkeypatch):
    server = serve(refuses(429, Retry_After="3"))
    waiting = threading.Event()
    plain = completions.refusal

    def noticed(*said):
        waiting.set()
        return plain(*said)

    def cut_off(futures):
        assert waiting.wait(5)
        raise KeyboardInterrupt

    monkeypatch.setattr(completions, "refusal", noticed)
    monkeypatch.setattr(endpoints, "as_completed", cut_off)
    with pytest.raises(KeyboardInterrupt):
        put(at(server), [("q", photo)], sleep=None)
    assert len(server.requests) == 1


# --- progress ------------------------------------------------------------------------------------


def test_the_bar_tells_answers_failures_tokens_cost_and_time_left(serve, photo, put, capsys):
    server = serve(answered, refuses(400))
    jobs = [(str(i), photo) for i in range(3)]
    endpoint = at(server, price_in=50.0, price_out=200.0)
    put(endpoint, jobs, progress=True, concurrency=1)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "a-model: 100%" in last and "3/3 [" in last and "<00:00" in last
    # 2 answers of 100 tokens in at 50 and 20 out at 200 per million: 2 * (0.005 + 0.004)
    assert "2 answered, 1 failed, 240 tokens, cost 0.0180" in last
    put(endpoint, jobs[:1], progress=True)
    assert "1 answered, 0 failed, 0 tokens, cost 0.0000" in capsys.readouterr().out


def test_without_prices_the_bar_tells_no_cost(serve, photo, put, capsys):
    put(at(serve()), [("q", photo)], progress=True)
    out = capsys.readouterr().out
    assert "1 answered, 0 failed, 120 tokens" in out and "cost" not in out


def test_without_progress_nothing_is_printed(serve, photo, put, capsys):
    put(at(serve(refuses(400))), [("q", photo)])
    assert capsys.readouterr() == ("", "")


# --- the key -------------------------------------------------------------------------------------

ECHOES = {
    "an error": refuses(400, f"bad key {KEY}"),
    "a refused key": refuses(401, f"Incorrect API key provided: {KEY}"),
    "part of a refused key": refuses(401, f"Incorrect API key provided: {KEY[:14]}***"),
    "a forbidden model": refuses(403, f"{KEY} may not"),
    "a wrong address": refuses(404, f"nothing for {KEY}"),
    "a limit": refuses(429, f"limit of {KEY} reached"),
    "a fault": refuses(500, f"failed for {KEY}"),
    "an error that is cut": refuses(400, "x" * 290 + KEY),
    "an error in another form": says(422, json.dumps({"detail": [{"input": f"Bearer {KEY}"}]})),
    "escapes": says(400, '{"why": "' + "".join(f"\\u{ord(c):04x}" for c in KEY) + '"}'),
    "escaped slashes": says(400, '{"error": "' + KEY.replace("/", "\\/") + '"}'),
    "a text": says(400, f"plain {KEY}"),
    "a page": says(502, f"<pre>{KEY}</pre>"),
    "a header": says(200, completion("yes"), X_Echo=f"Bearer {KEY}"),
    "a header of a fault": refuses(500, "no", X_Echo=quote(KEY, safe="").lower()),
    "a reason phrase": says(400, "{}", reason=f"Bad {KEY}"),
    "a redirection": says(302, "", Location=f"http://127.0.0.1:9/{quote(KEY, safe='')}"),
    "a Retry-After": refuses(429, "no", Retry_After=KEY),
    "an answer": says(200, completion(f"your key is {KEY}, is it?")),
    "an answer in capitals": says(200, completion(f"your key is {KEY.upper()}")),
    "an answer in parts": says(200, completion([{"text": KEY[:5]}, {"text": KEY[5:]}])),
    "a malformed answer": says(200, f'{{"choices": "{KEY}'),
    "an answer without choices": says(200, json.dumps({"error": {"message": KEY}})),
    "a reason to stop": says(
        200, json.dumps({"choices": [{"message": {"content": ""}, "finish_reason": KEY}]})
    ),
    "no connection": hangs_up,
    "silence": holds,
}


def assert_absent(text: str) -> None:
    text = text.lower()
    for spelt in (KEY, KEY.replace("/", "\\/"), quote(KEY, safe=""), KEY[:14]):
        assert spelt.lower() not in text


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_the_key_is_nowhere_whatever_the_server_echoes(
    serve, photo, put, tmp_path, capsys, caplog, echo
):
    caplog.set_level(logging.DEBUG)
    server = serve(echo, echo)
    limit = 0.1 if echo is holds else 5
    endpoint = at(server)
    jobs = [("q", photo), (f"Do you know {KEY}?", photo)]
    answers = put(endpoint, jobs, progress=True, retries=1, timeout=limit, concurrency=1)
    assert server.keys[0] == f"Bearer {KEY}"  # it was sent
    assert all(answer.text or answer.problem for answer in answers)
    files = list((tmp_path / "cache").iterdir())
    assert "HTTP/1.1" in caplog.text or echo in (holds, hangs_up)
    for text in (caplog.text, *capsys.readouterr(), repr(answers), repr(endpoint), str(endpoint)):
        assert_absent(text)
    for file in files:
        assert_absent(file.name + file.read_text())


def test_the_log_shows_where_a_key_was(serve, photo, put, caplog):
    caplog.set_level(logging.DEBUG)
    put(at(serve(ECHOES["a header"])), [("q", photo)])
    assert "Bearer [key]" in caplog.text
    assert not any(logging.getLogger(name).filters for name in redaction.LOGGERS)


def test_the_rest_of_an_answer_that_holds_the_key_is_left(serve, photo, put):
    (answer,) = put(at(serve(ECHOES["an answer"])), [("q", photo)])
    assert answer.text == "your key is [key], is it?"


def test_a_refused_connection_does_not_tell_the_key(serve, photo, put, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    server = serve()
    server.stop()
    (answer,) = put(at(server), [("q", photo)], retries=1)
    assert_absent(repr(answer) + caplog.text + "".join(capsys.readouterr()))


def test_a_fault_of_our_own_does_not_tell_the_key(serve, photo, put, monkeypatch):
    def broken(*_):
        raise RuntimeError(f"bug, with {KEY}")

    monkeypatch.setattr(endpoints, "_data_url", broken)
    (answer,) = put(at(serve()), [("q", photo)])
    assert answer.problem == "bug, with [key]"


# --- the endpoint --------------------------------------------------------------------------------

NAMES = ("REALQA_ENDPOINT_URL", "REALQA_ENDPOINT_MODEL", "REALQA_ENDPOINT_KEY")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in zip(NAMES, ("https://host/v1/", "a-model", f" {KEY}\n"), strict=True):
        monkeypatch.setenv(name, value)
    for name in ("REALQA_ENDPOINT_PRICE_IN", "REALQA_ENDPOINT_PRICE_OUT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_environment_gives_the_endpoint(environment):
    endpoint = Endpoint.from_environment()
    assert (endpoint.base_url, endpoint.model, endpoint.key) == ("https://host/v1", "a-model", KEY)
    assert (endpoint.price_in, endpoint.price_out) == (0, 0)
    environment.setenv("REALQA_ENDPOINT_PRICE_IN", "0.15")
    environment.setenv("REALQA_ENDPOINT_PRICE_OUT", "0.6")
    endpoint = Endpoint.from_environment()
    assert (endpoint.price_in, endpoint.price_out) == (0.15, 0.6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("empty", [False, True])
def test_a_missing_variable_is_named_and_no_other(environment, name, empty):
    if empty:
        environment.setenv(name, " ")
    else:
        environment.delenv(name)
    with pytest.raises(ValueError, match=name) as caught:
        Endpoint.from_environment()
    assert not any(other in str(caught.value) for other in NAMES if other != name)
    assert_absent(str(caught.value))


@pytest.mark.parametrize("price", ["cheap", "-1", "nan", "inf"])
def test_a_price_that_is_none_is_refused(environment, price):
    environment.setenv("REALQA_ENDPOINT_PRICE_OUT", price)
    with pytest.raises(ValueError, match="price"):
        Endpoint.from_environment()


@pytest.mark.parametrize(
    "url", ["", "plain/v1", "ftp://host/v1", "http://", "https://user:pass@host/v1",
            "https://host/v1?key=abc", "https://host:port/v1", "https://host/v1#part"],
)  # fmt: skip
def test_a_url_that_is_not_plain_is_refused_and_not_shown(url):
    with pytest.raises(ValueError, match="REALQA_ENDPOINT_URL") as caught:
        Endpoint(url, "a-model", KEY)
    assert not url or url not in str(caught.value)


@pytest.mark.parametrize("key", ["", "none", "two words here", "line\nbreak-key", "sleutel-é-key"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key):
    with pytest.raises(ValueError, match="REALQA_ENDPOINT_KEY") as caught:
        Endpoint("https://host/v1", "a-model", key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("wrong", [(f"https://host/{KEY}", "m"), ("https://host", KEY.lower())])
def test_a_key_in_the_wrong_place_is_refused_and_not_shown(wrong):
    with pytest.raises(ValueError, match="key alone") as caught:
        Endpoint(*wrong, KEY)
    assert_absent(str(caught.value))


def test_an_endpoint_without_a_model_is_refused():
    with pytest.raises(ValueError, match="model is empty"):
        Endpoint("https://host/v1", "", KEY)


def test_the_key_takes_no_part_in_comparisons_so_no_report_of_a_difference_shows_it():
    one, two = (Endpoint("https://host/v1", "a-model", key) for key in (KEY, "another-key"))
    assert one == two and hash(one) == hash(two)


@pytest.mark.parametrize(
    "limits", [{"concurrency": 0}, {"retries": -1}, {"timeout": 0}, {"max_tokens": 0}]
)
def test_a_limit_out_of_range_is_refused_before_anything_is_sent(serve, photo, put, limits):
    server = serve()
    with pytest.raises(ValueError, match=f"{next(iter(limits))} "):
        put(at(server), [("q", photo)], **limits)
    assert server.requests == []
