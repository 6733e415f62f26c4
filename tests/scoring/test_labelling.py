"""A model labels photographs: batches, answers put together, codes."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from realqa_utils.forms import taxonomy
from realqa_utils.forms.conversations import ATTRIBUTE_FORMS, GRANULARITIES, MIX, Parsed
from realqa_utils.scoring import labelling

LABELS = {
    "eye_catching": 7, "eye_catching_reason": "it stands out", "composition": 2,
    "composition_reason": "it is far off", "subject_background": "a lamp, behind it a wall",
    "subject_integrity": 2, "subject_clutter": 0, "background_clutter": 1, "level_shot": 1,
    "image_clarity": 0, "exposure": 4, "saturation": 1,
}  # fmt: skip
CODES = {
    "eye_catching": 7, "composition": 2, "subject_integrity": 3, "subject_clutter": 1,
    "background_clutter": 2, "level_shot": 1, "image_clarity": 1, "exposure": 1, "saturation": 2,
}  # fmt: skip


class Stub:
    """In place of `decoder.generate`: answers with the question and the size of the photograph."""

    def __init__(self):
        self.batches = []

    def __call__(self, backbone, questions, images, max_new_tokens):
        self.batches.append(len(images))
        return [f"{q} {i.size} {max_new_tokens}" for q, i in zip(questions, images, strict=True)]


@pytest.fixture
def stub(monkeypatch) -> Stub:
    monkeypatch.setattr(labelling.decoder, "generate", Stub())
    return labelling.decoder.generate


def sizes(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (8 + i, 8)) for i in range(count)]


# --- asking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, batches", [(0, []), (1, [1]), (6, [3, 3]), (7, [3, 3, 1])])
def test_every_photograph_is_asked_about_once_in_order(stub, count, batches):
    answers = labelling.ask(None, sizes(count), "What?", 5, batch_size=3)
    assert answers == [f"What? {(8 + i, 8)} 5" for i in range(count)]
    assert stub.batches == batches


def test_photographs_may_be_opened_only_when_their_turn_comes(stub):
    opened = []

    def opener(image):
        return lambda: opened.append(len(stub.batches)) or image

    answers = labelling.ask(None, [opener(image) for image in sizes(5)], "What?", batch_size=2)
    assert opened == [0, 0, 1, 1, 2]
    assert answers == labelling.ask(None, sizes(5), "What?")


def test_a_batch_is_answered_as_its_photographs_one_by_one(tiny_backbone):
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)) for _ in range(2)]
    images = [*noise, Image.new("RGB", (112, 56), "red")]
    together = labelling.ask(tiny_backbone, images, MIX.question, 6)
    apart = labelling.ask(tiny_backbone, images, MIX.question, 6, batch_size=1)
    assert together == apart and len(together) == 3 and all(together)


@pytest.mark.parametrize("granularity", ["attributes", "levels", "mix", "mix_low_first"])
def test_a_label_asks_in_every_form_of_a_granularity(monkeypatch, granularity):
    asked = []

    def answer(backbone, images, question, **options):
        (form,) = (f for f in ATTRIBUTE_FORMS.values() if f.question == question)
        asked.append(form)
        return [form.answer(LABELS)] * len(images)

    monkeypatch.setattr(labelling, "ask", answer)
    first, second = labelling.label(None, sizes(2), granularity)
    assert tuple(asked) == GRANULARITIES[granularity]
    names = set(taxonomy.BY_NAME if "mix" in granularity or granularity == "levels" else CODES)
    assert first == second and first.missing == {}
    assert first.values == {name: LABELS[name] for name in names}
    assert first.reasons["composition"] == "it is far off"


# --- putting together --------------------------------------------------------------------------


def test_answers_to_several_forms_become_one():
    clarity, exposure = (ATTRIBUTE_FORMS[name] for name in ("image_clarity", "exposure"))
    merged = labelling.merge(
        [(clarity, ["clear", "so so"]), (exposure, ["bright", "Overexposed."])]
    )
    assert [p.values for p in merged] == [{"image_clarity": 2}, {"exposure": 4}]
    assert [set(p.missing) for p in merged] == [{"exposure"}, {"image_clarity"}]
    with pytest.raises(ValueError, match="zip"):
        labelling.merge([(clarity, ["clear"]), (exposure, ["overexposed", "overexposed"])])


def test_what_one_of_several_forms_tells_is_not_missing():
    clarity = ATTRIBUTE_FORMS["image_clarity"]
    for answered in ([(clarity, ["clear"]), (MIX, [""])], [(MIX, [""]), (clarity, ["clear"])]):
        (merged,) = labelling.merge(answered)
        assert merged.values == {"image_clarity": 2}
        assert set(merged.missing) == set(taxonomy.BY_NAME) - {"image_clarity"}


# --- codes -------------------------------------------------------------------------------------


def test_a_frame_holds_codes_and_why_there_is_none():
    told = MIX.parse(MIX.answer(LABELS))
    silent = Parsed(values={"exposure": 0}, missing={"saturation": "not mentioned"})
    frame = labelling.as_frame([told, silent], ["a", "b"])
    assert list(frame.columns) == ["id", "attribute", "said", "why"]
    assert list(frame["id"]) == ["a"] * 9 + ["b"] * 9
    first, second = (part.set_index("attribute") for _, part in frame.groupby("id"))
    assert first["said"].to_dict() == CODES and (first["why"] == "").all()
    assert second["said"].dropna().to_dict() == {"exposure": 1}
    assert second.at["saturation", "why"] == "not mentioned"
    with pytest.raises(ValueError, match="zip"):
        labelling.as_frame([told], ["a", "b"])


def test_a_frame_comes_back_from_a_file():
    frame = labelling.as_frame([MIX.parse(MIX.answer(LABELS)), MIX.parse("")], ["1", "2"])
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)), dtype={"id": str})
    pd.testing.assert_frame_equal(again.fillna({"why": ""}), frame)


def test_true_codes_by_hand():
    other = {**LABELS, "exposure": 2, "eye_catching": 10, "level_shot": 0}
    frame = pd.DataFrame([LABELS, other]).assign(id=["x", "y"], mos=3.0)
    codes = labelling.true_codes(frame)
    assert list(codes.index) == ["x", "y"] and tuple(codes.columns) == taxonomy.SCORED
    assert codes.loc["x"].to_dict() == CODES
    assert codes.loc["y"].to_dict() == CODES | {"exposure": 3, "eye_catching": 10, "level_shot": 0}
    assert all(pd.api.types.is_float_dtype(kind) for kind in codes.dtypes)
