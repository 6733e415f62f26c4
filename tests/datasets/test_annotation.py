"""Corrections of first labels: what is written, what is read again, what is refused, agreement."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from realqa_utils.datasets.annotation import COLUMNS, Annotations, agreement, check, choices
from realqa_utils.forms import taxonomy
from realqa_utils.records import results

pytestmark = pytest.mark.filterwarnings("error")
SUBJECT = "subject_background"


def frame(count=4, **columns) -> pd.DataFrame:
    """First labels: every score 5, every tier the second, one text."""
    labels = {name: [5 if len(choices(name)) == 10 else 1] * count for name in taxonomy.SCORED}
    labels[SUBJECT] = ["a tower, behind it the sea"] * count
    return pd.DataFrame({"id": [f"photo {i}" for i in range(count)], **labels} | columns)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels" / "events.jsonl"


@pytest.fixture
def annotations(path) -> Annotations:
    return Annotations(path, frame())


# --- events --------------------------------------------------------------------------------------


def test_a_correction_is_an_event_on_disk_at_once(annotations, path):
    before = datetime.now(UTC).replace(microsecond=0)
    assert annotations.correct("photo 1", "exposure", 0, " Ann ")
    (line,) = path.read_text().splitlines()
    event = json.loads(line)
    when = datetime.fromisoformat(event.pop("when"))
    assert before <= when <= datetime.now(UTC) and when.utcoffset() == timedelta(0)
    assert event == {
        "who": "Ann", "id": "photo 1", "event": "correct", "attribute": "exposure", "from": 1,
        "to": 0,
    }  # fmt: skip


def test_reading_the_file_again_gives_the_state(annotations, path):
    annotations.correct("photo 1", "exposure", 0, "Ann")
    annotations.correct("photo 2", SUBJECT, "une forêt", "Ann")
    annotations.confirm("photo 2", "Bob")
    assert "une forêt" in path.read_text("utf-8")  # for people to read
    again = Annotations(path, frame())
    pd.testing.assert_frame_equal(again.current(), annotations.current())
    pd.testing.assert_frame_equal(again.history(), annotations.history())
    expected = frame().astype(dict.fromkeys(taxonomy.SCORED, "Int64") | {SUBJECT: object})
    expected.loc[1, "exposure"], expected.loc[2, SUBJECT] = 0, "une forêt"
    expected["reviewed"] = [False, False, True, False]
    pd.testing.assert_frame_equal(again.current(), expected)
    assert again.first["exposure"].tolist() == [1, 1, 1, 1]


def test_two_people_in_turn_are_kept_in_order(path):
    """Each has opened the file before the other wrote anything."""
    ann, bob = Annotations(path, frame()), Annotations(path, frame())
    ann.correct("photo 0", "composition", 7, "Ann")
    bob.correct("photo 0", "composition", 9, "Bob")
    ann.correct("photo 0", "composition", 8, "Ann")
    history = ann.history()
    assert history["who"].tolist() == ["Ann", "Bob", "Ann"]
    assert history[["from", "to"]].to_numpy().tolist() == [[5, 7], [7, 9], [9, 8]]
    assert list(history) == list(COLUMNS)
    assert bob.labels("photo 0")["composition"] == 8


def test_people_at_the_same_time_lose_no_event(path):
    """What the other wrote just before is what a correction starts from, or it is refused."""
    people, start = [Annotations(path, frame()) for _ in range(2)], Barrier(2)

    def work(person: int) -> None:
        start.wait(10)
        for i in range(4):
            people[person].correct(f"photo {i}", "composition", 6 + person, str(person))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    history = Annotations(path, frame()).history()
    assert history["who"].value_counts().to_dict() == {"0": 4, "1": 4}


def test_a_correction_is_undone_by_one_back(annotations):
    start = annotations.current()
    annotations.correct("photo 1", "saturation", 2, "Ann")
    annotations.correct("photo 1", "saturation", 1, "Ann")
    pd.testing.assert_frame_equal(annotations.current(), start)
    assert len(annotations.history()) == 2


def test_a_label_that_was_missing_can_be_given_and_taken_back(path):
    annotations = Annotations(path, frame(exposure=[np.nan, 1, 1, 1]))
    assert annotations.labels("photo 0")["exposure"] is None
    annotations.correct("photo 0", "exposure", 3, "Ann")
    annotations.correct("photo 0", "exposure", None, "Ann")
    assert annotations.current()["exposure"].isna().tolist() == [True, False, False, False]
    assert annotations.history()["to"].tolist() == [3, None]
    with pytest.raises(ValueError, match="exposure: None; right is one of 0"):
        annotations.correct("photo 1", "exposure", None, "Ann")


def test_the_value_that_is_there_is_no_event(annotations, path):
    assert not annotations.correct("photo 1", "exposure", 1, "Ann")
    assert not path.exists()


def test_columns_that_are_no_attributes_stay(path):
    first = frame()[["id", "exposure"]].assign(mos=[1.5, 2, 3, 4], exposure=[0, 1, 2, 3])
    annotations = Annotations(path, first.set_index(pd.Index([7, 7, 8, 9])))
    annotations.correct("photo 1", "exposure", 4, "Ann")
    current = annotations.current()
    assert current["exposure"].tolist() == [0, 4, 2, 3]
    assert current["mos"].tolist() == [1.5, 2, 3, 4]
    assert annotations.attributes == ("exposure",)
    annotations.confirm("photo 1", "Ann")  # whose index another photo has too
    assert agreement(annotations)[["n", "unchanged"]].to_numpy().tolist() == [[1, 0]]


def test_a_failed_write_leaves_state_and_file_as_they_were(annotations, path, monkeypatch):
    annotations.correct("photo 0", "exposure", 2, "Ann")
    kept = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(results.os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            annotations.correct("photo 0", "exposure", 3, "Ann")
    assert path.read_bytes() == kept
    assert annotations.labels("photo 0")["exposure"] == 2
    assert [each.name for each in path.parent.glob("*.tmp*")] == []
    annotations.correct("photo 0", "exposure", 4, "Ann")
    assert annotations.history()["from"].tolist() == [1, 2]


def test_confirming_what_has_changed_in_the_meantime_is_refused(annotations):
    seen = annotations.labels("photo 0")
    annotations.confirm("photo 0", "Ann", seen)
    annotations.correct("photo 0", "exposure", 2, "Bob")
    with pytest.raises(ValueError, match="photo 0: exposure is now 2, not 1; look again"):
        annotations.confirm("photo 0", "Ann", seen)
    annotations.confirm("photo 0", "Cleo")
    assert annotations.reviewed() == {"photo 0": "Cleo"}


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["photo 0", "photo 1"]),
            st.sampled_from([a.name for a in taxonomy.ATTRIBUTES]),
            st.integers(0, 11) | st.text(max_size=8),
            st.text(max_size=5),
        ),
        max_size=8,
    )
)
def test_whatever_people_do_the_file_reads_back_as_the_state(tmp_path_factory, actions):
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    annotations, expected = Annotations(path, frame(2)), {}
    for id_, name, value, who in actions:
        try:
            annotations.correct(id_, name, value, who)
            expected[id_, name] = check(name, value)
        except ValueError as error:
            assert "right is" in str(error)
    again = Annotations(path, frame(2))
    for (id_, name), value in expected.items():
        assert again.labels(id_)[name] == value
    pd.testing.assert_frame_equal(again.history(), annotations.history())
    pd.testing.assert_frame_equal(again.current(), annotations.current())


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name, right, wrong", [
    ("composition", [1, 10, np.int64(3)], [0, 11, 7.5, 7.0, "7", None, True]),
    ("level_shot", [0, 1], [2, -1, True, "level"]),
    ("exposure", [0, 4], [5]),
    (SUBJECT, ["a cat"], ["", " \n", 3, None]),
])  # fmt: skip
def test_the_taxonomy_decides_what_a_label_is(annotations, name, right, wrong):
    for value in right:
        assert check(name, value) == value
        annotations.correct("photo 0", name, value, "Ann")
    for value in wrong:
        with pytest.raises(ValueError, match=f"{name}: .*; right is"):
            annotations.correct("photo 0", name, value, "Ann")


def test_a_refusal_says_what_the_tiers_are(annotations):
    with pytest.raises(ValueError, match=r"0 \(blurry\), 1 \(slightly blurry\), 2 \(clear\)"):
        annotations.correct("photo 0", "image_clarity", 3, "Ann")


@pytest.mark.parametrize("arguments, message", [
    (("photo 9", "exposure", 2, "Ann"), "no photo has the id 'photo 9'; ids look like 'photo 0'"),
    (("photo 0", "beauty", 2, "Ann"), "no attribute 'beauty'; right is one of eye_catching"),
    (("photo 0", "exposure", 2, "  "), "who is ''; right is the name of a person"),
])  # fmt: skip
def test_a_correction_of_nothing_or_by_nobody_is_refused(annotations, path, arguments, message):
    with pytest.raises(ValueError, match=message):
        annotations.correct(*arguments)
    with pytest.raises(ValueError):
        annotations.confirm("photo 9", "Ann")
    with pytest.raises(ValueError, match="right is the name"):
        annotations.confirm("photo 0", "")
    assert not path.exists() and annotations.reviewed() == {}


@pytest.mark.parametrize("first, message", [
    (frame(exposure=[1, 1, 5, 1]), r"row 3 \(id 'photo 2'\): exposure: 5; right is one of 0"),
    (frame(id=["a", "b", "c", "b"]), "row 4: id 'b' is in an earlier row"),
    (frame()[["id"]], "right is a row a photo, with its id and attributes"),
    (frame().drop(columns="id"), "right is a row a photo"),
    (frame(0), "right is a row a photo"),
])  # fmt: skip
def test_first_labels_that_are_none_are_refused(path, first, message):
    with pytest.raises(ValueError, match=message):
        Annotations(path, first)


GOOD = dict(zip(COLUMNS, ("2025-01-01T10:00:00+00:00", "Ann", "photo 0", "correct", "exposure", 1,
                          2), strict=True))  # fmt: skip


@pytest.mark.parametrize("line, message", [
    ("{", "event 2: Expecting property name"),
    ("[1, 2]", "event 2: .* is no event; right are the keys when, who"),
    (json.dumps(GOOD | {"more": 1}), "is no event"),
    (json.dumps(GOOD | {"from": 2, "to": 9}), "event 2: exposure: 9; right is one of 0"),
    (json.dumps(GOOD | {"from": 2, "id": "x"}), "no photo has the id 'x'"),
    (json.dumps(GOOD | {"from": 2, "id": []}), "event 2"),
    (json.dumps(GOOD | {"from": 2, "event": "delete"}), "unknown event 'delete'"),
    (json.dumps(GOOD | {"from": 2, "who": 3}), "who is 3"),
    (json.dumps(GOOD | {"from": 2, "to": 3, "when": "noon"}), "noon"),
    (json.dumps(GOOD), "exposure was 1 there and is 2 here; .* begun with these first labels"),
])  # fmt: skip
def test_a_file_that_does_not_hold_together_is_refused_with_its_event(path, line, message):
    path.parent.mkdir()
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=f"events.jsonl.*{message}"):
        Annotations(path, frame())


def test_a_file_that_was_mended_is_read_again(path):
    annotations = Annotations(path, frame())
    path.parent.mkdir()
    path.write_text(json.dumps(GOOD) + "\n{\n")
    with pytest.raises(ValueError, match="event 2"):
        annotations.current()
    path.write_text(json.dumps(GOOD) + "\n")
    assert annotations.history()["to"].tolist() == [2]


def test_bytes_that_are_no_text_are_refused(path):
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="events.jsonl: not a text in UTF-8"):
        Annotations(path, frame())


def test_a_file_edited_by_hand_still_grows_line_by_line(path):
    """No line end after the last event, an empty line, and a file cut shorter in the meantime."""
    path.parent.mkdir()
    second = json.dumps(GOOD | {"from": 2, "to": 3})
    path.write_text(json.dumps(GOOD) + "\n\n" + second)
    annotations = Annotations(path, frame())
    annotations.correct("photo 0", "exposure", 4, "Bob")
    assert annotations.history()["to"].tolist() == [2, 3, 4]
    assert Annotations(path, frame()).history()["to"].tolist() == [2, 3, 4]
    path.write_text(json.dumps(GOOD) + "\n")
    assert annotations.history()["to"].tolist() == [2]
    path.write_text("")
    assert annotations.labels("photo 0")["exposure"] == 1


# --- agreement -----------------------------------------------------------------------------------


def quadratic_kappa(x, y):
    """1 - (disagreement seen) / (disagreement of the same marginals, independent)."""
    x, y = np.asarray(x), np.asarray(y)
    expected = np.mean([(a - b) ** 2 for a in x for b in y])
    return 1 - np.mean((x - y) ** 2) / expected


def test_agreement_against_its_definition(path):
    rng = np.random.default_rng(0)
    first = frame(60, composition=rng.integers(1, 11, 60), image_clarity=rng.integers(0, 3, 60))
    annotations = Annotations(path, first)
    for i in range(40):
        if i % 3 == 0:
            annotations.correct(f"photo {i}", "composition", int(rng.integers(1, 11)), "Ann")
            annotations.correct(f"photo {i}", "image_clarity", int(rng.integers(0, 3)), "Ann")
        if i < 30:
            annotations.confirm(f"photo {i}", "Ann")
    found = agreement(annotations).set_index("attribute")
    last = annotations.current()
    assert (found["n"] == 30).all() and (found["unlabelled"] == 0).all()
    for name in ("composition", "image_clarity"):
        x, y = first[name][:30].to_numpy(), last[name][:30].to_numpy(int)
        assert found.loc[name, "unchanged"] == pytest.approx(np.mean(x == y))
        assert 0 < found.loc[name, "unchanged"] < 1
        assert found.loc[name, "kappa"] == pytest.approx(quadratic_kappa(x, y))
        assert found.loc[name, "srcc"] == pytest.approx(spearmanr(x, y).statistic)


def test_labels_count_as_agreed_only_when_somebody_looked(annotations):
    found = agreement(annotations)
    assert found["attribute"].tolist() == [a.name for a in taxonomy.ATTRIBUTES]
    assert set(found["n"]) == {0} and found["unchanged"].isna().all()
    annotations.correct("photo 0", "exposure", 2, "Ann")  # corrected, yet the rest not looked at
    assert set(agreement(annotations)["n"]) == {0}
    annotations.confirm("photo 0", "Ann")
    annotations.confirm("photo 1", "Ann")
    found = agreement(annotations).set_index("attribute")
    assert set(found["n"]) == {2}
    assert found.loc["exposure", "unchanged"] == 0.5
    assert found.loc["saturation", "unchanged"] == 1


def test_opposite_tiers_of_one_code_are_a_change_with_equal_codes(path):
    first = frame(exposure=[0, 1, 2, 3])
    annotations = Annotations(path, first)
    annotations.correct("photo 0", "exposure", 4, "Ann")  # underexposed to overexposed: code 1
    for id_ in first["id"]:
        annotations.confirm(id_, "Ann")
    found = agreement(annotations).set_index("attribute").loc["exposure"]
    assert (found["unchanged"], found["kappa"], found["srcc"]) == (0.75, 1, pytest.approx(1))


def test_where_nothing_varies_there_is_no_kappa(annotations):
    annotations.confirm("photo 0", "Ann")
    one = agreement(annotations)
    assert one["kappa"].isna().all() and one["srcc"].isna().all()
    annotations.confirm("photo 1", "Ann")
    assert agreement(annotations)["kappa"].isna().all()


def test_photos_without_a_label_are_counted_apart(path):
    annotations = Annotations(path, frame(exposure=[None, 2, None, 1]))
    annotations.correct("photo 0", "exposure", 2, "Ann")
    for i in range(3):
        annotations.confirm(f"photo {i}", "Ann")
    found = agreement(annotations).set_index("attribute").loc["exposure"]
    assert (found["n"], found["unlabelled"], found["unchanged"]) == (1, 2, 1)
