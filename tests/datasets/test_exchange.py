"""Conversations in LLaMA-Factory's form: written, read, refused, and made from labels."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realqa_utils.datasets import mini
from realqa_utils.datasets.exchange import (
    IMAGE,
    Conversation,
    dataset_info,
    from_table,
    read_conversations,
    write_conversations,
)
from realqa_utils.datasets.table import Table
from realqa_utils.forms import taxonomy
from realqa_utils.forms.chains import STAGE_2
from realqa_utils.forms.conversations import ALL_SETS, ATTRIBUTE_FORMS, DIRECT, MIX
from realqa_utils.forms.scores import Scale

SHARP = Conversation("<image>Is it sharp?", "Yes: très.", ("/photos/a.jpg",))
TWO = Conversation(
    "And<image>this?",
    "Better.",
    ("/photos/a.jpg", "/photos/b.jpg"),
    "Be brief.",
    (("<image>\nIs it sharp?", "No."),),
)


def save(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def as_llama_factory_reads(entry: dict, info: dict) -> dict:
    """The rules of LLaMA-Factory's data README for sharegpt, put down independently."""
    columns, tags = info["columns"], info["tags"]
    said = entry[columns["messages"]]
    system = ""
    if said[0][tags["role_tag"]] == tags["system_tag"]:
        system, said = said[0][tags["content_tag"]], said[1:]
    assert len(said) % 2 == 0
    for place, message in enumerate(said):
        expected = tags["assistant_tag"] if place % 2 else tags["user_tag"]
        assert message[tags["role_tag"]] == expected
    texts = [message[tags["content_tag"]] for message in said]
    images = entry[columns["images"]]
    assert sum(text.count("<image>") for text in texts) == len(images)
    return {"system": system, "texts": texts, "images": images}


# --- writing -------------------------------------------------------------------------------------


def test_the_file_by_hand(tmp_path):
    path = write_conversations(tmp_path / "ours.json", [SHARP, TWO])
    assert json.loads(path.read_bytes()) == [
        {
            "messages": [
                {"role": "user", "content": "<image>Is it sharp?"},
                {"role": "assistant", "content": "Yes: très."},
            ],
            "images": ["/photos/a.jpg"],
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "<image>\nIs it sharp?"},
                {"role": "assistant", "content": "No."},
                {"role": "user", "content": "And<image>this?"},
                {"role": "assistant", "content": "Better."},
            ],
            "images": ["/photos/a.jpg", "/photos/b.jpg"],
        },
    ]
    lines = write_conversations(tmp_path / "ours.jsonl", [SHARP, TWO]).read_text("utf-8")
    assert [json.loads(line) for line in lines.splitlines()] == json.loads(path.read_bytes())


def test_llama_factory_finds_everything_under_the_names_of_dataset_info(tmp_path):
    info = dataset_info("ours", Path("sub") / "ours.json")
    assert info["ours"]["file_name"] == "sub/ours.json"
    assert info["ours"]["formatting"] == "sharegpt"
    assert json.loads(json.dumps(info)) == info
    write_conversations(tmp_path / "ours.json", [TWO])
    (entry,) = json.loads((tmp_path / "ours.json").read_bytes())
    assert as_llama_factory_reads(entry, info["ours"]) == {
        "system": "Be brief.",
        "texts": [text for turn in TWO.turns for text in turn],
        "images": list(TWO.images),
    }


def test_images_are_absolute_or_relative_to_their_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    talk = Conversation("<image>?", "!", (os.path.join("photos", "x", "a.jpg"),))

    def written(images: str | None = None) -> str:
        write_conversations("out/ours.json", [talk], images)
        return json.loads(Path("out/ours.json").read_bytes())[0]["images"][0]

    assert written() == (tmp_path / "photos/x/a.jpg").as_posix()
    assert read_conversations("out/ours.json")[0].images == (str(tmp_path / "photos/x/a.jpg"),)
    assert written("photos") == "x/a.jpg"
    with pytest.raises(ValueError, match=r"a\.jpg: not in .*other; right is a folder that holds"):
        written("other")
    with pytest.raises(ValueError, match="not in"):
        written("photos/y/../x/z")


def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path):
    path = write_conversations(tmp_path / "ours.json", [SHARP])
    before = path.read_bytes()

    def breaks():
        yield TWO
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        write_conversations(path, breaks())
    with pytest.raises(ValueError, match=r"ours\.json: no conversations to write"):
        write_conversations(path, [])
    with pytest.raises(ValueError, match=r"ours\.txt: right is a name that ends in \.json"):
        write_conversations(tmp_path / "ours.txt", [SHARP])
    assert [file.name for file in tmp_path.iterdir()] == ["ours.json"]
    assert path.read_bytes() == before


# --- reading -------------------------------------------------------------------------------------

SPELLINGS = [
    {
        "messages": [
            {"role": "user", "content": "<image>Is it sharp?"},
            {"role": "assistant", "content": "Yes: très."},
        ],
        "images": ["/photos/a.jpg"],
    },
    {
        "id": 7,
        "conversations": [
            {"from": "human", "value": "<image>Is it sharp?"},
            {"from": "gpt", "value": "Yes: très."},
        ],
        "image": "/photos/a.jpg",
    },
    {
        "messages": None,
        "conversations": [
            {"from": "user", "content": "<image>Is it sharp?"},
            {"role": "gpt", "value": "Yes: très."},
        ],
        "images": "/photos/a.jpg",
        "image": None,
        "system": None,
    },
]


@pytest.mark.parametrize("entry", SPELLINGS)
def test_every_spelling_is_the_same_conversation(tmp_path, entry):
    assert read_conversations(save(tmp_path / "theirs.json", [entry])) == [SHARP]


def test_a_system_prompt_may_stand_in_either_place(tmp_path):
    inside = {"role": "system", "content": "Be brief."}
    (plain, *_), said = SPELLINGS, SPELLINGS[0]["messages"]
    entries = [
        plain | {"system": "Be brief."},
        plain | {"messages": [inside, *said]},
        plain | {"messages": [inside, *said], "system": "Ramble."},  # as in LLaMA-Factory
    ]
    for talk in read_conversations(save(tmp_path / "theirs.json", entries)):
        assert talk.system == "Be brief."
        assert (talk.question, talk.answer) == (SHARP.question, SHARP.answer)


def user(text: object = "<image>?") -> dict:
    return {"role": "user", "content": text}


def reply(text: object = "!") -> dict:
    return {"role": "assistant", "content": text}


def talk_of(*messages: object, **more: object) -> dict:
    return {"messages": list(messages), "images": ["a.jpg"]} | more


MALFORMED = [
    ("text", r"'text'; right is an object with 'messages' and 'images'"),
    ({"images": ["a.jpg"]}, r"messages None; right is a list under 'messages'"),
    ({"messages": "hello"}, r"messages 'hello'; right is a list"),
    (talk_of(), r"roles of nobody; right is user and assistant in turn"),
    (talk_of(user()), r"roles user; right is user and assistant in turn, the assistant last"),
    (talk_of(reply(), user()), r"roles assistant, user; right is"),
    (talk_of(user(), user(""), reply()), r"roles user, user, assistant; right is"),
    (talk_of(user(), {"role": "system", "content": ""}), r"roles user, system; .* at the start"),
    (talk_of("hello"), r"message 'hello'; right is an object with 'role' and 'content'"),
    (talk_of({"role": "tool", "content": ""}), r"role 'tool'; right is one of user, human"),
    (talk_of({"role": ["user"], "content": ""}), r"role \['user'\]; right is one of"),
    (talk_of({"content": ""}), r"role None; right is one of"),
    (talk_of(user(), {"role": "assistant"}), r"the text None is a NoneType; right is a string"),
    (talk_of(user([{"type": "text"}]), reply()), r"is a list; right is a string"),
    (talk_of(user("?"), reply()), r"0 placeholders <image> for 1 images; right is one for each"),
    (talk_of(user("<image><image>"), reply()), r"2 placeholders <image> for 1 images"),
    (talk_of(user(), reply(), images=[]), r"1 placeholders <image> for 0 images"),
    (talk_of(user(), reply(), images=[{"bytes": ""}]), r"bytes.* is a dict; right is a string"),
    (talk_of(user(), reply(), images=[""]), r"images \(''\,\); right is a tuple of paths"),
    (talk_of(user(), reply(), image="b.jpg"), r"both 'images' and 'image'; right is one of them"),
    (talk_of(user(), reply(), conversations=[]), r"both 'messages' and 'conversations'"),
    (talk_of(user(), reply("")), r"an empty answer; right is some text"),
    (talk_of(user("<image><video>"), reply()), r"holds <video>; right is .* images only"),
    (talk_of(user(), reply(), system=5), r"the text 5 is a int; right is a string"),
    (talk_of(user(), reply(), system=IMAGE), r"1 placeholders .* none in the system prompt"),
    (talk_of(user(), reply("\ud83d")), r"'\\ud83d' is no Unicode"),
]


@pytest.mark.parametrize(("entry", "problem"), MALFORMED)
def test_a_malformed_entry_is_one_clear_error(tmp_path, entry, problem):
    path = save(tmp_path / "theirs.json", [*SPELLINGS, entry])
    with pytest.raises(
        ValueError, match=rf"theirs\.json, entry 3 \(from 0\): .*{problem}"
    ) as caught:
        read_conversations(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))


def test_the_error_counts_all_malformed_entries(tmp_path):
    path = save(tmp_path / "theirs.json", [SPELLINGS[0], *(entry for entry, _ in MALFORMED)])
    count = f"malformed entries: {len(MALFORMED)} of {len(MALFORMED) + 1}"
    with pytest.raises(ValueError, match=rf"entry 1 \(from 0\): .*\({count}\)"):
        read_conversations(path)


def test_a_file_without_entries_is_an_error(tmp_path):
    for text in ("[]", "", "\n"):
        (tmp_path / "theirs.json").write_text(text)
        with pytest.raises(ValueError, match=r"theirs\.json: no conversations in it"):
            read_conversations(tmp_path / "theirs.json")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: no such file"):
        read_conversations(tmp_path / "nowhere.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([IMAGE, "user", "gpt"]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("messages", "conversations", "images", "image", "system", "role", "content"), inner
            ),
        )
    ),
)


@settings(max_examples=60)
@given(JSON)
def test_any_json_is_read_or_refused_by_name(entry):
    with TemporaryDirectory() as folder:
        path = save(Path(folder, "theirs.json"), [SPELLINGS[0], entry])
        try:
            assert len(read_conversations(path)) == 2
        except ValueError as error:
            assert str(error).startswith(f"{path}, entry 1 (from 0): ")


# --- images --------------------------------------------------------------------------------------


@pytest.fixture
def theirs(tmp_path) -> Path:
    """Three photos in a folder, and a file whose paths are of three kinds."""
    for name in ("data/1.jpg", "photos/1.jpg", "photos/train/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ["1.jpg", "/their/disk/train/2.jpg", "gone.jpg"]
    entries = [talk_of(user(), reply(), images=[name]) for name in names]
    return save(tmp_path / "data" / "theirs.json", entries)


def images_of(path: Path, *arguments: object, **options: object) -> list[str]:
    return [
        image for talk in read_conversations(path, *arguments, **options) for image in talk.images
    ]


def test_relative_images_lie_beside_the_file_or_in_the_given_folder(theirs, tmp_path, monkeypatch):
    data, photos = tmp_path / "data", tmp_path / "photos"
    beside = [str(data / "1.jpg"), "/their/disk/train/2.jpg", str(data / "gone.jpg")]
    moved = [str(photos / "1.jpg"), str(photos / "train/2.jpg"), str(photos / "gone.jpg")]
    assert images_of(theirs) == beside
    assert images_of(theirs, photos) == moved
    monkeypatch.chdir(tmp_path)
    assert images_of(Path("data/theirs.json")) == beside
    assert images_of(Path("data/theirs.json"), "photos") == moved


def test_missing_images_are_an_error_only_when_asked(theirs, tmp_path):
    pattern = r"theirs\.json, entry 2 \(from 0\): no image .*gone\.jpg; .*missing images: 1 of 3"
    with pytest.raises(FileNotFoundError, match=pattern):
        read_conversations(theirs, tmp_path / "photos", check_images=True)
    (tmp_path / "photos" / "gone.jpg").touch()
    assert len(read_conversations(theirs, tmp_path / "photos", check_images=True)) == 3
    with pytest.raises(FileNotFoundError, match=r"entry 1 .*/their/disk.*missing images: 2 of 3"):
        read_conversations(theirs, check_images=True)


def test_two_images_that_would_become_one_are_an_error(tmp_path):
    (tmp_path / "1.jpg").touch()
    names = ["/disk/a/1.jpg", "/disk/b/1.jpg"]
    path = save(tmp_path / "x.json", [talk_of(user(), reply(), images=[name]) for name in names])
    with pytest.raises(ValueError, match=r"x\.json: images '/disk/a/1\.jpg' and '/disk/b/1\.jpg'"):
        read_conversations(path, tmp_path)


# --- round trips ---------------------------------------------------------------------------------


def without_marks(text: str) -> bool:
    return not any(mark in text for mark in (IMAGE, "<video>", "<audio>"))


TEXT = st.text().filter(without_marks)
ANSWER = st.text(min_size=1).filter(without_marks)
NAME = st.text("abc é中_-.", min_size=1).map(lambda name: f"/photos/{name}x.jpg")


@st.composite
def conversations(draw) -> Conversation:
    images = tuple(draw(st.lists(NAME, max_size=3)))
    turns = draw(st.lists(st.tuples(TEXT, ANSWER), min_size=1, max_size=3))
    marks = iter([IMAGE] * len(images))
    first = draw(TEXT) + "".join(mark + draw(TEXT) for mark in marks)
    turns[0] = (first, turns[0][1])
    *earlier, (question, answer) = turns
    return Conversation(question, answer, images, draw(st.none() | TEXT), tuple(earlier))


@settings(max_examples=60)
@given(st.lists(conversations(), min_size=1, max_size=4), st.sampled_from([".json", ".jsonl"]))
@example([Conversation("\u2028\x85\r\n\x00", '\u2029\ufeff{}[]"\\', system="")], ".jsonl")
def test_what_is_written_is_read_again(talks, suffix):
    with TemporaryDirectory() as folder:
        path = write_conversations(Path(folder, f"ours{suffix}"), talks)
        assert read_conversations(path) == talks


def test_the_prompt_is_the_question_without_its_placeholders():
    assert SHARP.prompt == "Is it sharp?"
    assert Conversation("<image>\n Is it?\n", "!", ("a.jpg",)).prompt == "Is it?"
    assert SHARP.turns == (("<image>Is it sharp?", "Yes: très."),)
    assert TWO.turns == (("<image>\nIs it sharp?", "No."), ("And<image>this?", "Better."))


def test_one_path_is_not_taken_for_a_tuple_of_letters():
    with pytest.raises(ValueError, match=r"images 'a'; right is a tuple of paths"):
        Conversation("<image>?", "!", "a")


# --- from labels ---------------------------------------------------------------------------------


def labelled(count: int = 3, **columns: object) -> Table:
    rows = [mini.labels(mini.scene_at("mini-koniq", 0, index)) for index in range(count)]
    names = {
        "id": [f"p{k}" for k in range(count)],
        "path": [f"/photos/{k}.png" for k in range(count)],
    }
    return Table("toy", Scale(0, 10), pd.DataFrame(rows).assign(**names, **columns))


def test_labels_come_back_from_the_file_in_every_form(tmp_path):
    table = labelled(40)
    path = write_conversations(tmp_path / "ours.json", from_table(table, ALL_SETS))
    talks = read_conversations(path)
    wanted = [(row, form) for _, row in table.frame.iterrows() for form in ALL_SETS]
    assert len(talks) == len(wanted) == 40 * 13
    for talk, (row, form) in zip(talks, wanted, strict=True):
        assert (talk.images, talk.prompt, talk.system) == ((row["path"],), form.question, None)
        said = form.parse(talk.answer)
        assert said.missing == {}
        assert said.values == {a.name: row[a.name] for a in form.attributes}
        reasons = [a.name for a in form.attributes if a.kind == "score"]
        assert said.reasons == {name: row[f"{name}_reason"] for name in reasons}


def test_scores_come_back_from_the_file_in_every_form(tmp_path):
    mos = np.linspace(1, 4.9, 40)
    table = Table("toy", Scale(1, 5), labelled(40, mos=mos).frame)
    forms = STAGE_2["direct_and_cot"]
    talks = read_conversations(
        write_conversations(tmp_path / "ours.json", from_table(table, forms, digits=2))
    )
    told = zip(table.frame.to_dict("records"), table.targets, strict=True)
    wanted = [(row, score, form) for row, score in told for form in forms]
    for talk, (row, score, form) in zip(talks, wanted, strict=True):
        assert (talk.images, talk.prompt) == ((row["path"],), form.question)
        start, end = form.score_span(talk.answer)
        assert float(talk.answer[start:end]) == pytest.approx(score, abs=0.0501)
        if form is not DIRECT:
            said, number = form.parse(talk.answer, 2)
            assert number.score == float(talk.answer[start:end]) and said.missing == {}
            assert said.values == {a.name: row[a.name] for a in taxonomy.ATTRIBUTES}


def test_a_score_needs_its_column_and_labels_do_not():
    with pytest.raises(ValueError, match="toy: no columns mos; right is a table labelled with"):
        from_table(labelled(), [DIRECT])
    with pytest.raises(ValueError, match=r"toy, photo 'p1', form 'cot_natural': exposure: 9"):
        from_table(labelled(exposure=[0, 9, 1], mos=[1, 2, 3]), STAGE_2["cot_natural"])


def test_the_question_begins_with_the_image():
    talk = from_table(labelled(1), [ATTRIBUTE_FORMS["exposure"]])[0]
    assert talk.question == "<image>What is the exposure of this image?"
    assert talk.answer.startswith("Exposure: ")


# Letters at both ends: white space and punctuation there are not part of what an answer says.
WORDS = st.text().filter(without_marks).map(lambda text: f"a{text}b")


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {
            a.name: WORDS
            if a.kind == "text"
            else st.sampled_from(a.codes if a.kind == "score" else range(len(a.tiers)))
            for a in taxonomy.ATTRIBUTES
        }
        | {"eye_catching_reason": WORDS, "composition_reason": WORDS}
    ),
    st.sampled_from(ALL_SETS),
)
def test_any_labels_and_texts_come_back(labels, form):
    table = Table("toy", Scale(0, 10), pd.DataFrame([{"id": "p", "path": "/p.png"} | labels]))
    with TemporaryDirectory() as folder:
        path = write_conversations(Path(folder, "ours.json"), from_table(table, [form]))
        said = form.parse(read_conversations(path)[0].answer)
    assert said.values == {a.name: labels[a.name] for a in form.attributes}
    assert all(labels[f"{name}_reason"] == reason for name, reason in said.reasons.items())


@pytest.mark.parametrize(
    ("columns", "photo", "problem"),
    [
        ({"exposure": [0, np.nan, 1]}, "p1", r"exposure: nan"),
        ({"exposure": [0, 1, -1]}, "p2", r"exposure: -1"),
        ({"exposure": [0, 9, 1]}, "p1", r"exposure: 9"),
        ({"composition": [1, 5, 11]}, "p2", r"composition: 11"),
        ({"composition": [1.0, 5.5, 10]}, "p1", r"composition: 5\.5"),
        ({"composition_reason": ["a", None, "c"]}, "p1", r"composition_reason: "),
        (
            {"subject_background": ["a", "b", "..."]},
            "p2",
            r"subject_background: empty when read back",
        ),
        ({"subject_background": ["a", "<image>", "c"]}, "p1", r"2 placeholders <image> for 1"),
        (
            {"composition_reason": ["a", "Exposure: odd", "c"]},
            "p1",
            r"exposure: .* when read back from",
        ),
    ],
)
def test_a_label_that_cannot_be_read_back_is_an_error(columns, photo, problem):
    with pytest.raises(ValueError, match=rf"toy, photo '{photo}', form 'mix': {problem}"):
        from_table(labelled(**columns), [MIX])


def test_missing_columns_are_listed():
    table = labelled()
    bare = Table("toy", table.scale, table.frame[["id", "path", "saturation"]])
    with pytest.raises(ValueError, match="toy: no columns eye_catching_reason, eye_catching, comp"):
        from_table(bare, ALL_SETS)
    assert len(from_table(bare, [ATTRIBUTE_FORMS["saturation"]])) == 3
