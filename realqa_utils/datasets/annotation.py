"""A model labels, a person corrects (Sec. 3.1): the corrections, and how far both agree.

Annotators alone varied too much and drifted to the middle, so in the paper models label first.
Here every correction and confirmation is an event in a file that only grows: who, when, what, from
which value to which. So nothing is lost, and first label and person can be compared on the photos
that somebody has really looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from sklearn.metrics import cohen_kappa_score

from realqa_utils.forms import taxonomy
from realqa_utils.measures import statistics
from realqa_utils.records import results

COLUMNS = ("when", "who", "id", "event", "attribute", "from", "to")
Label = int | str | None  # score 1..10 or tier index, text, or no label


@dataclass
class _State:
    """What a file says, and what has come of the labels."""

    text: str = ""
    events: list[dict[str, Label]] = field(default_factory=list)
    changed: dict[tuple[str, str], Label] = field(default_factory=dict)  # by id and attribute
    reviewed: dict[str, str] = field(default_factory=dict)  # id: who was the last to confirm


class Annotations:
    """First labels of photos, and the file of what people made of them.

    `path` is a file of events in JSON Lines; the first event makes it. `first` has one row a photo:
    `id`, and columns named like attributes of the taxonomy with scores 1..10, tier indices or
    texts, and None or NaN where there is no label. Further columns are kept.

    Every method looks into the file anew, and events are added one process at a time, so several
    people can work on one file. Raises ValueError for labels outside the taxonomy, and for a file
    that is damaged or belongs to other first labels.
    """

    def __init__(self, path: str | Path, first: pd.DataFrame) -> None:
        self.path = Path(path)
        first = first.reset_index(drop=True)
        self.attributes = tuple(a.name for a in taxonomy.ATTRIBUTES if a.name in first)
        self._labels = _first_labels(first, self.attributes)
        self._state = _State()
        self.first = self._frame(first.assign(id=list(self._labels)), _State())
        self._read()

    def correct(self, id: str, attribute: str, value: Label, who: str) -> bool:
        """Put `value` in the place of a label; to undo a correction is to correct it back.

        Returns whether that changes anything: the value that is there already is no event. None is
        a value where the first label was missing.

        Raises ValueError for an unknown id or attribute, an empty name, or a value that is none of
        the attribute's; TimeoutError if another process holds the file for 10 seconds.
        """
        with self._alone():
            state = self._read()
            before, value = self._label(state, id, attribute), self._checked(id, attribute, value)
            if value != before:
                self._append(state, who, id, "correct", attribute, before, value)
        return value != before

    def confirm(self, id: str, who: str, seen: Mapping[str, Label] | None = None) -> None:
        """Say that a person has looked at a photo, and that its labels are right as they stand.

        `seen` holds labels as the person was shown them; if one has changed since, the
        confirmation is refused. Raises as `correct`.
        """
        with self._alone():
            state = self._read()
            for name, label in (seen or {}).items():
                if (now := self._label(state, id, name)) != label:
                    raise ValueError(f"{id}: {name} is now {now!r}, not {label!r}; look again")
            self._append(state, who, id, "confirm", None, None, None)

    def labels(self, id: str) -> dict[str, Label]:
        """The labels of one photo as they stand, by attribute."""
        state = self._read()
        return {name: self._label(state, id, name) for name in self.attributes}

    def reviewed(self) -> dict[str, str]:
        """The photos that somebody has confirmed, and who did so last."""
        return dict(self._read().reviewed)

    def current(self) -> pd.DataFrame:
        """The frame of first labels with the corrections made, and a column `reviewed`.

        Scores and tiers are Int64, in which a missing label is NA.
        """
        state = self._read()
        frame = self._frame(self.first, state)
        return frame.assign(reviewed=frame["id"].isin(list(state.reviewed)))

    def history(self) -> pd.DataFrame:
        """Every event, oldest first: when (ISO 8601, UTC), who, id, event, attribute, from, to.

        `event` is "correct" or "confirm"; a confirmation has no attribute and no values.
        """
        return pd.DataFrame(self._read().events, columns=COLUMNS, dtype=object)

    # --- the file

    def _alone(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=10)

    def _read(self) -> _State:
        try:
            text = self.path.read_bytes().decode() if self.path.exists() else ""
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: not a text in UTF-8 ({error})") from error
        state = self._state if text.startswith(self._state.text) else _State()
        self._state = _State()  # for the case that the new lines are no good
        for line in filter(str.strip, text[len(state.text) :].split("\n")):
            try:
                self._replay(state, json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self.path}, event {len(state.events) + 1}: {error}") from error
        state.text, self._state = text, state
        return state

    def _replay(self, state: _State, event: dict[str, Label]) -> None:
        """Check an event against the state that it meets, and let it act on it."""
        if not isinstance(event, dict) or tuple(event) != COLUMNS:
            raise ValueError(f"{event!r} is no event; right are the keys {', '.join(COLUMNS)}")
        id_, name = event["id"], event["attribute"]
        datetime.fromisoformat(event["when"])
        if not event["who"] or not isinstance(event["who"], str):
            raise ValueError(f"who is {event['who']!r}; right is the name of a person")
        if event["event"] == "confirm" and id_ in self._labels:
            state.reviewed[id_] = event["who"]
        elif event["event"] == "correct":
            if (before := self._label(state, id_, name)) != event["from"]:
                raise ValueError(
                    f"{id_}: {name} was {event['from']!r} there and is {before!r} here; right is "
                    "a file that was begun with these first labels"
                )
            state.changed[id_, name] = self._checked(id_, name, event["to"])
        else:
            raise ValueError(f"unknown event {event['event']!r} or id {id_!r}")
        state.events.append(event)

    def _append(self, state: _State, who: str, *values: Label) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        event = dict(zip(COLUMNS, (now, who.strip(), *values), strict=True))
        self._replay(state, event)
        kept = state.text and state.text.rstrip("\n") + "\n"
        text = f"{kept}{json.dumps(event, ensure_ascii=False)}\n"
        self._state = _State()  # for the case that it cannot be written
        results.write_text(self.path, text)
        state.text, self._state = text, state

    def _label(self, state: _State, id_: str, name: str) -> Label:
        if id_ not in self._labels:
            known = next(iter(self._labels))
            raise ValueError(f"no photo has the id {id_!r}; ids look like {known!r}")
        if name not in self.attributes:
            raise ValueError(f"no attribute {name!r}; right is one of {', '.join(self.attributes)}")
        return state.changed.get((id_, name), self._labels[id_][name])

    def _checked(self, id_: str, name: str, value: object) -> Label:
        if value is None and self._labels[id_][name] is None:
            return None  # so that every correction can be undone
        return check(name, value)

    def _frame(self, frame: pd.DataFrame, state: _State) -> pd.DataFrame:
        columns = {}
        for name in self.attributes:
            labels = [self._label(state, id_, name) for id_ in frame["id"]]
            dtype = "Int64" if name in taxonomy.SCORED else object
            columns[name] = pd.Series(labels, index=frame.index, dtype=dtype)
        return frame.assign(**columns)


# --- labels --------------------------------------------------------------------------------------


def check(name: str, value: object) -> int | str:
    """A label as the taxonomy has it: a score, a tier index, or a text in one line.

    Raises ValueError for anything else, with what would be right.

    >>> check("image_clarity", 2), check("subject_background", " a cat  on a mat ")
    (2, 'a cat on a mat')
    """
    if taxonomy.BY_NAME[name].kind == "text":
        if isinstance(value, str) and value.strip():
            return " ".join(value.split())
        raise ValueError(f"{name}: {value!r}; right is a text")
    known = choices(name)
    if isinstance(value, Integral) and not isinstance(value, bool) and value in known.values():
        return int(value)
    right = ", ".join(f"{label} ({words})" for words, label in known.items())
    raise ValueError(f"{name}: {value!r}; right is one of {right}")


def choices(name: str) -> dict[str, int]:
    """Words and label of everything that a scored attribute can be."""
    attribute = taxonomy.BY_NAME[name]
    if attribute.kind == "score":
        return {str(score): score for score in attribute.codes}
    return {tier.words: index for index, tier in enumerate(attribute.tiers)}


def _first_labels(frame: pd.DataFrame, names: tuple[str, ...]) -> dict[str, dict[str, Label]]:
    """Labels by id and attribute, in the order of the rows."""
    if "id" not in frame or not names or frame.empty:
        raise ValueError("no first labels; right is a row a photo, with its id and attributes")
    found: dict[str, dict[str, Label]] = {}
    for row, (id_, *values) in enumerate(zip(*(frame[c] for c in ("id", *names)), strict=True), 1):
        if str(id_) in found:
            raise ValueError(f"row {row}: id {str(id_)!r} is in an earlier row too")
        try:
            labels = {n: _first_label(n, v) for n, v in zip(names, values, strict=True)}
        except ValueError as error:
            raise ValueError(f"row {row} (id {str(id_)!r}): {error}") from error
        found[str(id_)] = labels
    return found


def _first_label(name: str, value: object) -> Label:
    if pd.isna(value) or value == "":
        return None
    if isinstance(value, float) and value.is_integer():  # a column with NaN holds floats
        value = int(value)
    return check(name, value)


def agreement(annotations: Annotations) -> pd.DataFrame:
    """How the first labels agree with those of now, per attribute, on the photos confirmed.

    ========== ====================================================================================
    n          photos confirmed that had a label at first and have one now
    unlabelled photos confirmed that did not or do not; they are left out
    unchanged  share of n with the same label: of tiers, not of codes
    kappa      Cohen's kappa of the codes, quadratic weights; NaN for texts and for a single code
    srcc       of the codes; NaN for texts, for a constant and for n < 2
    ========== ====================================================================================
    """
    last = annotations.current()
    last = last[last["reviewed"]]
    first = annotations.first.loc[last.index]
    rows = [_agreement(name, first[name], last[name]) for name in annotations.attributes]
    return pd.DataFrame(rows)


def _agreement(name: str, first: pd.Series, last: pd.Series) -> dict[str, object]:
    known = first.notna() & last.notna()
    pairs = list(zip(first[known], last[known], strict=True))
    same = [a == b for a, b in pairs]
    kappa = srcc = np.nan
    if name in taxonomy.SCORED and pairs:
        x, y = ([taxonomy.code(name, label) for label in side] for side in zip(*pairs, strict=True))
        levels = taxonomy.BY_NAME[name].codes
        if len({*x, *y}) > 1:
            kappa = cohen_kappa_score(x, y, labels=levels, weights="quadratic")
        srcc = statistics.srcc(x, y) if len(pairs) > 1 else np.nan
    return {
        "attribute": name,
        "n": len(pairs),
        "unlabelled": int((~known).sum()),
        "unchanged": float(np.mean(same)) if same else np.nan,
        "kappa": float(kappa),
        "srcc": srcc,
    }
