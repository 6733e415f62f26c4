"""The table in a notebook in which a person corrects what a model has labelled (Sec. 3.1).

It holds no label of its own: every change goes to the file behind `annotation.Annotations` at once,
and the fields then show what that file says, whoever has written it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path

import ipywidgets
from PIL import Image

from realqa_utils.datasets.annotation import Annotations, Label, choices
from realqa_utils.forms import taxonomy
from realqa_utils.images.photos import open_photo

THUMBNAIL = 224  # px, longer side


def table(
    annotations: Annotations,
    photos: Mapping[str, str | Path | Image.Image],
    who: str,
    page_size: int = 5,
) -> ipywidgets.VBox:
    """A table to look at photos with their labels, correct them and confirm them, in a notebook.

    `photos` are files or pictures by id, shown in that order, `page_size` at a time; they may be
    some of the annotated ones. What `who` does is saved at once. In place of a photo that cannot be
    read stands the reason.

    Raises ValueError for no photos, an id without first labels, an empty name, a page size below 1.
    """
    _check(annotations, photos, who, page_size)
    page = ipywidgets.BoundedIntText(1, min=1, max=-(-len(photos) // page_size), description="Page")
    back, on = (ipywidgets.Button(description=text) for text in ("Previous", "Next"))
    count, rows, ids = ipywidgets.Label(), ipywidgets.VBox(), list(photos)

    def progress() -> None:
        done = sum(id_ in photos for id_ in annotations.reviewed())
        count.value = f"of {page.max}; {done} of {len(ids)} photos confirmed"

    def show(_: object = None) -> None:
        left, shown = rows.children, ids[(page.value - 1) * page_size : page.value * page_size]
        rows.children = [_row(annotations, id_, photos[id_], who, progress) for id_ in shown]
        _close(left)
        back.disabled, on.disabled = page.value == 1, page.value == page.max
        progress()

    def turn(step: int, _: object) -> None:
        page.value += step  # the field keeps within its bounds

    page.observe(show, "value")
    back.on_click(partial(turn, -1))
    on.on_click(partial(turn, 1))
    show()
    return ipywidgets.VBox([ipywidgets.HBox([back, on, page, count]), rows])


def _check(annotations: Annotations, photos: Mapping, who: str, page_size: int) -> None:
    missing = [id_ for id_ in photos if id_ not in set(annotations.first["id"])]
    if missing:
        raise ValueError(f"no first labels for the id {missing[0]!r} ({len(missing)} unknown ids)")
    if not photos or not who.strip() or page_size < 1:
        raise ValueError(
            f"{len(photos)} photos, page_size {page_size}, who {who!r}; right is at least 1, at "
            "least 1, and the name of a person"
        )


def _row(
    annotations: Annotations, id_: str, photo: object, who: str, progress: Callable[[], None]
) -> ipywidgets.HBox:
    """One photo; what is done in it goes to the file, and the fields then show what is there."""
    fields = {name: _field(name) for name in annotations.attributes}
    button, note = ipywidgets.Button(description="Confirm"), ipywidgets.Label()
    shown: dict[str, Label] = {}  # as last read from the file

    def show() -> None:
        shown.update(annotations.labels(id_))
        for name, label in shown.items():  # calls `change`, which finds nothing new
            fields[name].value = "" if label is None and name not in taxonomy.SCORED else label
        button.button_style = "success" if id_ in annotations.reviewed() else ""

    def act(action: Callable, *arguments: object) -> None:
        try:
            action(*arguments)
            note.value = "saved"
            progress()
        except (ValueError, OSError) as error:
            note.value = f"not saved: {error}"
        with suppress(ValueError, OSError):  # the note tells
            show()

    def change(name: str, event: Mapping) -> None:
        label = None if event["new"] == "" else event["new"]  # tier 0 is a label
        if label != shown[name]:
            act(annotations.correct, id_, name, label, who)

    show()
    for name, widget in fields.items():
        widget.observe(partial(change, name), "value")
    button.on_click(lambda _: act(annotations.confirm, id_, who, dict(shown)))
    left = ipywidgets.VBox([_thumbnail(photo), ipywidgets.Label(id_)])
    return ipywidgets.HBox([left, ipywidgets.VBox([*fields.values(), button, note])])


def _field(name: str) -> ipywidgets.ValueWidget:
    title = taxonomy.BY_NAME[name].title
    look = {"description": title, "layout": {"width": "44em"}}
    look |= {"style": {"description_width": "15em"}}  # else long titles are cut short
    if name in taxonomy.SCORED:
        return ipywidgets.Dropdown(options=list(choices(name).items()), value=None, **look)
    return ipywidgets.Text(continuous_update=False, **look)


def _thumbnail(photo: str | Path | Image.Image) -> ipywidgets.Widget:
    try:
        image = (photo if isinstance(photo, Image.Image) else open_photo(photo)).convert("RGB")
    except (ValueError, OSError) as error:
        return ipywidgets.Label(str(error))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    image.save(buffer, "JPEG")
    return ipywidgets.Image(value=buffer.getvalue(), format="jpeg")


def _close(widgets: tuple[ipywidgets.Widget, ...]) -> None:
    """Free what is no longer shown: the kernel keeps every widget that is not closed."""
    for widget in widgets:
        _close(getattr(widget, "children", ()))
        widget.close()
