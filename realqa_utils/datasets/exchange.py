"""Conversations as other tools keep them: sharegpt JSON with `<image>` placeholders.

The authors publish theirs in this form (`MingxingLi/RealQA-conversation` on the Hugging Face hub),
and LLaMA-Factory and ms-swift train on it. They skip a malformed entry with a warning, or stop in
the middle of a run; here it is one error beforehand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from realqa_utils.datasets.files import json_entries, locate
from realqa_utils.datasets.table import Table
from realqa_utils.forms.chains import ChainForm
from realqa_utils.forms.conversations import AttributeForm, Form
from realqa_utils.records import results

IMAGE = "<image>"
TAGS = ("role", "content", "user", "assistant", "system")  # each under its own name
OTHER_MEDIA = ("<video>", "<audio>")  # placeholders of LLaMA-Factory and ms-swift as well
ROLES = {
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "system": "system",
}  # fmt: skip


@dataclass(frozen=True)
class Conversation:
    """Questions about photos and their answers, as an entry of the JSON holds them.

    `question` and `answer` are the last turn, `earlier` the (question, answer) pairs before it.
    The texts keep their placeholders: the k-th `<image>` stands for the k-th of `images`, which are
    paths. `system` is the system prompt, None where a tool shall use its own.

    Raises ValueError for what LLaMA-Factory or ms-swift refuses: placeholders other than there are
    images, an empty answer, a text that UTF-8 cannot write.

    >>> talk = Conversation("<image>Is it sharp?", "Yes.", ("a.jpg",))
    >>> talk.prompt, talk.turns
    ('Is it sharp?', (('<image>Is it sharp?', 'Yes.'),))
    """

    question: str
    answer: str
    images: tuple[str, ...] = ()
    system: str | None = None
    earlier: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not (isinstance(self.images, tuple) and all(self.images)):
            raise ValueError(f"images {self.images!r:.60}; right is a tuple of paths")
        texts = [text for turn in self.turns for text in turn]
        for text in (*texts, *self.images, self.system or ""):
            _check_text(text)
        if any(not answer for _, answer in self.turns):
            raise ValueError("an empty answer; right is some text to learn")
        marks = sum(text.count(IMAGE) for text in texts)
        if marks != len(self.images) or IMAGE in (self.system or ""):
            raise ValueError(
                f"{marks} placeholders {IMAGE} for {len(self.images)} images; right is one for "
                "each image, where it belongs in the turns, and none in the system prompt"
            )

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Every (question, answer), in order."""
        return (*self.earlier, (self.question, self.answer))

    @property
    def prompt(self) -> str:
        """The last question without placeholders and the white space around it."""
        return self.question.replace(IMAGE, "").strip()


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"the text {text!r:.60} is a {type(text).__name__}; right is a string")
    for mark in OTHER_MEDIA:
        if mark in text:
            raise ValueError(f"a text holds {mark}; right is a conversation about images only")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text {text!r:.60} is no Unicode ({error.reason})") from None


# --- reading -------------------------------------------------------------------------------------


def read_conversations(
    path: str | Path, images: str | Path | None = None, *, check_images: bool = False
) -> list[Conversation]:
    """The conversations of a file in sharegpt form, JSON list or JSON Lines.

    An entry has `messages` or `conversations`, a list of `{"role": ..., "content": ...}` or
    `{"from": ..., "value": ...}` in which user (human) and assistant (gpt) take turns, after one
    system message at most; and `images`, a list of paths, or `image`, one path. A system prompt
    may also stand under `system`. Whatever else an entry holds is left out.

    Args:
        images: the folder of the images, for relative paths and for the absolute ones of another
            machine (see `files.locate`); by default the folder of the file, for relative paths.
        check_images: every image must be an existing file.

    Raises:
        FileNotFoundError: no such file; with `check_images`, no such image.
        ValueError: malformed entries: the first one, its index from 0, and how many there are.
    """
    path = Path(path)
    entries = json_entries(path)
    found, problems = [], []
    for index, entry in enumerate(entries):
        try:
            found.append(_conversation(entry))
        except ValueError as error:
            problems.append(f"{path}, entry {index} (from 0): {error}")
    if problems:
        raise ValueError(f"{problems[0]} (malformed entries: {len(problems)} of {len(entries)})")
    if not found:
        raise ValueError(f"{path}: no conversations in it; right is one at least")
    names = dict.fromkeys(image for talk in found for image in talk.images)
    places = _places(path, names, images)
    found = [replace(talk, images=tuple(places[name] for name in talk.images)) for talk in found]
    if check_images:
        _check_images(path, found)
    return found


def _places(path: Path, names: Iterable[str], images: str | Path | None) -> dict[str, str]:
    if images is None:
        return {name: str(path.absolute().parent / name) for name in names}
    try:
        return locate(names, [Path(images).absolute()])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_images(path: Path, found: Sequence[Conversation]) -> None:
    uses = [(index, image) for index, talk in enumerate(found) for image in talk.images]
    exists = {image: Path(image).is_file() for _, image in uses}
    missing = [(index, image) for index, image in uses if not exists[image]]
    if missing:
        index, image = missing[0]
        raise FileNotFoundError(
            f"{path}, entry {index} (from 0): no image {image}; right is a file in the folder of "
            f"the images (missing images: {list(exists.values()).count(False)} of {len(exists)})"
        )


def _conversation(entry: object) -> Conversation:
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r:.60}; right is an object with 'messages' and 'images'")
    messages = _one_of(entry, "messages", "conversations")
    if not isinstance(messages, list):
        raise ValueError(f"messages {messages!r:.60}; right is a list under 'messages'")
    said = [_message(message) for message in messages]
    system = entry.get("system")
    if said and said[0][0] == "system":
        system = said.pop(0)[1]
    roles, texts = [role for role, _ in said], [text for _, text in said]
    if not said or roles != ["user", "assistant"] * (len(said) // 2):
        raise ValueError(
            f"roles {', '.join(roles) or 'of nobody'}; right is user and assistant in turn, "
            "the assistant last, and a system message only at the start"
        )
    *earlier, (question, answer) = zip(texts[::2], texts[1::2], strict=True)
    return Conversation(question, answer, _images(entry), system, tuple(earlier))


def _one_of(entry: dict, key: str, other: str) -> object:
    """The value under one of two spellings; None when there is none."""
    if entry.get(key) is not None and entry.get(other) is not None:
        raise ValueError(f"both {key!r} and {other!r}; right is one of them")
    return entry.get(key) if entry.get(key) is not None else entry.get(other)


def _message(message: object) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise ValueError(f"message {message!r:.60}; right is an object with 'role' and 'content'")
    role, text = _one_of(message, "role", "from"), _one_of(message, "content", "value")
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"role {role!r:.60}; right is one of {', '.join(ROLES)}")
    _check_text(text)
    return ROLES[role], text


def _images(entry: dict) -> tuple[str, ...]:
    images = _one_of(entry, "images", "image")
    if images is None:
        return ()
    return tuple(images) if isinstance(images, list) else (images,)


# --- writing -------------------------------------------------------------------------------------


def write_conversations(
    path: str | Path, conversations: Iterable[Conversation], images: str | Path | None = None
) -> Path:
    """Write the `messages`/`images` form: a JSON list, or JSON Lines where `path` ends in .jsonl.

    Image paths are written absolute; with a folder `images`, relative to it, so that the file can
    move with its photos. `dataset_info` says how LLaMA-Factory and ms-swift find them.

    Raises ValueError for another suffix (both tools choose their reader by it), for no conversation
    at all, and for an image outside of `images`.
    """
    path = Path(path)
    entries = [_entry(talk, images) for talk in conversations]
    if not entries:
        raise ValueError(f"{path}: no conversations to write; right is one at least")
    if path.suffix == ".jsonl":
        lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        return results.write_text(path, "".join(lines))
    if path.suffix != ".json":
        raise ValueError(f"{path}: right is a name that ends in .json or .jsonl")
    return results.write_json(path, entries)


def _entry(talk: Conversation, images: str | Path | None) -> dict[str, list]:
    said = [] if talk.system is None else [("system", talk.system)]
    said += [pair for turn in talk.turns for pair in zip(("user", "assistant"), turn, strict=True)]
    return {
        "messages": [{"role": role, "content": text} for role, text in said],
        "images": [_written(image, images) for image in talk.images],
    }


def _written(image: str, images: str | Path | None) -> str:
    place = Path(os.path.abspath(image))
    if images is None:
        return place.as_posix()
    folder = Path(os.path.abspath(images))
    if not place.is_relative_to(folder):
        raise ValueError(f"{image}: not in {folder}; right is a folder that holds every image")
    return place.relative_to(folder).as_posix()


def dataset_info(name: str, file: str | Path) -> dict[str, dict]:
    """What LLaMA-Factory's `dataset_info.json` must say about a file of `write_conversations`.

    LLaMA-Factory: put the entry into `dataset_info.json` in its `dataset_dir`; `file` is relative
    to that folder, and relative images to `media_dir` (by default the same folder). Then
    `dataset: <name>`.

    ms-swift needs no entry: `--dataset <file>` knows `messages` and `images` by these names, and
    ROOT_IMAGE_DIR is the folder of relative images (by default the working folder).

    >>> dataset_info("ours", "ours.json")["ours"]["columns"]
    {'messages': 'messages', 'images': 'images'}
    """
    return {
        name: {
            "file_name": PurePath(file).as_posix(),
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {f"{key}_tag": key for key in TAGS},
        }
    }


def from_table(
    table: Table, forms: Sequence[AttributeForm | Form | ChainForm], digits: int = 3
) -> list[Conversation]:
    """A conversation for each photo of a labelled table and each form, photo by photo.

    Forms of stage 1 tell the labels, those of stage 2 the score with so many digits, and chains
    both. Raises ValueError for a column that lacks, and, naming the photo, for a label that is
    missing or cannot be, or that would not be read back (a reason with another attribute's heading
    in it).
    """
    needed = dict.fromkeys(slot.key for form in forms for slot in getattr(form, "slots", ()))
    if any(not isinstance(form, AttributeForm) for form in forms):
        needed["mos"] = None
    absent = [key for key in needed if key not in table.frame]
    if absent:
        raise ValueError(
            f"{table.name}: no columns {', '.join(absent)}; right is a table labelled with them"
        )
    rows = table.frame[["id", "path", *needed]].to_dict("records")
    scores = table.targets.tolist() if "mos" in needed else [float("nan")] * len(rows)
    told = zip(rows, scores, strict=True)
    return [_asked(table.name, row, form, score, digits) for row, score in told for form in forms]


def _asked(name: str, row: dict, form, score: float, digits: int) -> Conversation:
    try:
        answer = _read_back(row, form, score, digits)
        return Conversation(f"{IMAGE}{form.question}", answer, (row["path"],))
    except ValueError as error:
        raise ValueError(f"{name}, photo {row['id']!r}, form {form.name!r}: {error}") from None


def _read_back(row: dict, form, score: float, digits: int) -> str:
    """The answer, after a look at whether it says all that it was given."""
    if isinstance(form, Form):
        return form.answer(score, digits)
    if isinstance(form, AttributeForm):
        answer = form.answer(row)
        missing = form.parse(answer).missing
    else:
        answer = form.answer(row, score, digits)
        missing = form.parse(answer)[0].missing
    for label, problem in missing.items():
        raise ValueError(f"{label}: {problem} when read back from {answer!r}")
    return answer
