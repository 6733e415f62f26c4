"""The table of a notebook, used as a person would: values set, buttons clicked, no browser."""

from __future__ import annotations

import io
from pathlib import Path

import ipywidgets
import pandas as pd
import pytest
from PIL import Image

from realqa_utils.datasets.annotation import Annotations, choices
from realqa_utils.datasets.annotation_table import THUMBNAIL, table
from realqa_utils.forms import taxonomy
from realqa_utils.records import results

pytestmark = pytest.mark.filterwarnings("error")
IDS = [f"photo {i}" for i in range(5)]


@pytest.fixture
def annotations(tmp_path) -> Annotations:
    labels = {name: [5 if len(choices(name)) == 10 else 1] * 5 for name in taxonomy.SCORED}
    labels |= {"exposure": [None, 0, 1, 2, 3], "subject_background": ["a tower", *[None] * 4]}
    return Annotations(tmp_path / "events.jsonl", pd.DataFrame({"id": IDS, **labels}))


@pytest.fixture
def photos(tmp_path) -> dict[str, Path]:
    paths = {id_: tmp_path / f"{id_}.png" for id_ in IDS}
    for i, path in enumerate(paths.values()):
        Image.new("RGB", (300, 150), (40 * i, 0, 0)).save(path)
    return paths


class Person:
    """Finds widgets by what is written on them."""

    def __init__(self, widget: ipywidgets.VBox) -> None:
        self.widget = widget

    def all(self, kind: type, description: str | None = None) -> list:
        found = [each for each in _inside(self.widget) if isinstance(each, kind)]
        return [each for each in found if description is None or each.description == description]

    def field(self, title: str, row: int = 0):
        return self.all((ipywidgets.Dropdown, ipywidgets.Text), title)[row]

    def click(self, description: str, row: int = 0) -> None:
        self.all(ipywidgets.Button, description)[row].click()

    def reads(self) -> str:
        return "\n".join(each.value for each in self.all(ipywidgets.Label))


def _inside(widget: ipywidgets.Widget) -> list:
    return [widget, *(each for child in getattr(widget, "children", ()) for each in _inside(child))]


@pytest.fixture
def person(annotations, photos) -> Person:
    return Person(table(annotations, photos, "Ann", page_size=2))


def test_a_row_shows_photo_id_and_labels(person):
    image = person.all(ipywidgets.Image)[1]
    thumbnail = Image.open(io.BytesIO(image.value))
    assert thumbnail.size == (THUMBNAIL, THUMBNAIL // 2)
    assert abs(thumbnail.getpixel((5, 5))[0] - 40) <= 2  # the second photo
    assert "photo 0" in person.reads() and "photo 2" not in person.reads()
    shown = {each.description: each.value for each in person.all(ipywidgets.Dropdown)[:9]}
    expected = {taxonomy.BY_NAME[name].title: 1 for name in taxonomy.SCORED}
    assert shown == expected | {"Eye-Catching": 5, "Composition": 5, "Exposure": None}
    assert person.field("Exposure", row=1).label == "underexposed"
    assert [person.field("Subject and Background", row).value for row in (0, 1)] == ["a tower", ""]


def test_choosing_a_tier_saves_it(person, annotations):
    person.field("Image Clarity", row=1).label = "blurry"  # the tier 0
    person.field("Exposure").value = 4  # where there was no label
    person.field("Subject and Background", row=1).value = "a  café"
    history = annotations.history()
    assert set(history["who"]) == {"Ann"}
    assert history[["id", "attribute", "from", "to"]].to_numpy().tolist() == [
        ["photo 1", "image_clarity", 1, 0],
        ["photo 0", "exposure", None, 4],
        ["photo 1", "subject_background", None, "a café"],
    ]
    assert person.field("Subject and Background", row=1).value == "a café"
    assert "saved" in person.reads()


def test_showing_labels_is_no_correction(person, annotations):
    for button in ("Next", "Next", "Previous"):
        person.click(button)
    assert annotations.history().empty


def test_confirm_counts_the_photo_as_reviewed(person, annotations):
    assert "of 3; 0 of 5 photos confirmed" in person.reads()
    person.click("Confirm", row=1)
    assert annotations.reviewed() == {"photo 1": "Ann"}
    assert "of 3; 1 of 5 photos confirmed" in person.reads()
    styles = [each.button_style for each in person.all(ipywidgets.Button, "Confirm")]
    assert styles == ["", "success"]


def test_pages_turn_and_stop_at_both_ends(person):
    def shown():
        ids = [line for line in person.reads().splitlines() if line.startswith("photo")]
        return ids, [
            person.all(ipywidgets.Button, text)[0].disabled for text in ("Previous", "Next")
        ]

    assert shown() == (IDS[:2], [True, False])
    person.click("Previous")
    assert shown() == (IDS[:2], [True, False])
    person.click("Next")
    assert shown() == (IDS[2:4], [False, False])
    person.click("Next")
    person.click("Next")
    assert shown() == (IDS[4:], [False, True])
    person.all(ipywidgets.BoundedIntText)[0].value = 2
    assert shown()[0] == IDS[2:4]


def test_a_page_that_is_left_frees_its_widgets(person):
    rows = person.widget.children[1].children
    left = [each for row in rows for each in _inside(row)]
    person.click("Next")
    assert len(left) > 24 and all(each.comm is None for each in left)
    assert all(each.comm is not None for each in _inside(person.widget))


def test_coming_back_shows_what_was_changed(person, annotations):
    person.field("Composition").value = 9
    person.click("Next")
    annotations.correct("photo 0", "saturation", 2, "Bob")
    person.click("Previous")
    assert (person.field("Composition").value, person.field("Saturation").value) == (9, 2)


def test_confirming_what_another_person_changed_is_refused_and_shows_it(person, annotations):
    annotations.correct("photo 0", "composition", 9, "Bob")
    person.click("Confirm")
    assert annotations.reviewed() == {}
    assert "not saved: photo 0: composition is now 9" in person.reads()
    assert person.field("Composition").value == 9
    person.click("Confirm")
    assert annotations.reviewed() == {"photo 0": "Ann"}
    assert "not saved" not in person.reads()


def test_what_cannot_be_saved_is_taken_back_and_said(person, annotations, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(results.os, "replace", full)
        person.field("Composition").value = 9
        person.field("Exposure").value = 2
    assert "not saved: no space left on device" in person.reads()
    assert (person.field("Composition").value, person.field("Exposure").value) == (5, None)
    assert annotations.history().empty
    person.field("Subject and Background").value = " "
    assert "not saved: subject_background: ' '; right is a text" in person.reads()
    assert person.field("Subject and Background").value == "a tower"


def test_a_photo_that_cannot_be_read_is_shown_as_the_reason(annotations, photos):
    photos["photo 0"].write_bytes(b"no photo")
    photos["photo 1"].unlink()
    person = Person(table(annotations, photos, "Ann", page_size=3))
    assert "photo 0.png: not a photo" in person.reads()
    assert "photo 1.png: no such file" in person.reads()
    assert len(person.all(ipywidgets.Image)) == 1
    person.click("Confirm", row=1)
    assert "photo 1" in annotations.reviewed()


def test_pictures_in_memory_and_some_of_the_photos_will_do(annotations):
    picture = Image.new("RGBA", (500, 300))
    person = Person(table(annotations, {"photo 3": picture, "photo 1": picture}, "Ann"))
    ids = [line for line in person.reads().splitlines() if line.startswith("photo")]
    assert ids == ["photo 3", "photo 1"]
    annotations.confirm("photo 0", "Ann")
    person.click("Confirm")
    assert "1 of 2 photos confirmed" in person.reads()
    assert picture.size == (500, 300)  # still the caller's own


@pytest.mark.parametrize("ids, who, page_size, message", [
    (["photo 0", "photo 9"], "Ann", 5, "no first labels for the id 'photo 9'"),
    ([], "Ann", 5, "0 photos"),
    (IDS, " ", 5, "who ' '; right is .* the name of a person"),
    (IDS, "Ann", 0, "page_size 0"),
])  # fmt: skip
def test_a_table_of_nothing_or_for_nobody_is_refused(annotations, ids, who, page_size, message):
    picture = Image.new("RGB", (10, 10))
    with pytest.raises(ValueError, match=message):
        table(annotations, dict.fromkeys(ids, picture), who, page_size)
