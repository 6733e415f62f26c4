"""Plain texts that the mini backbone is pretrained on: captions of scenes, and number text.

Everyday words only. The questions, tier words and forms of the paper are left for training to
teach, so that there is something to reproduce.
"""

from __future__ import annotations

import numpy as np

from realqa_utils import taxonomy

QUESTION = "Describe this photo."

#: What a caption says of each tier index; of the two scores, of each fifth of 1..10.
PHRASES: dict[str, tuple[str, ...]] = {
    "image_clarity": (
        "Everything is smeared.",
        "The details are soft.",
        "The details are crisp.",
    ),
    "exposure": (
        "It is very dark.",
        "It is rather dark.",
        "The light is right.",
        "It is rather bright.",
        "It is washed out.",
    ),
    "saturation": ("The colours are faded.", "The colours are calm.", "The colours glow."),
    "level_shot": ("The camera leans.", "The camera stands straight."),
    "subject_integrity": ("Most of it is missing.", "A part of it is missing.", "All of it shows."),
    "subject_clutter": (
        "Many things cover it.",
        "A few things cover it.",
        "Nothing covers it.",
    ),
    "background_clutter": (
        "A crowd stands around.",
        "Some things stand around.",
        "The place is empty.",
    ),
    "eye_catching": (
        "One hardly sees it.",
        "One sees it a little.",
        "One sees it well.",
        "One notices it at once.",
        "One can not look away.",
    ),
    "composition": (
        "It stands in a bad place.",
        "It stands in a poor place.",
        "It stands in a fair place.",
        "It stands in a good place.",
        "It stands in the best place.",
    ),
}


def phrase_index(name: str, label: int) -> int:
    """Which phrase describes a label: the tier itself, or the fifth that a score 1..10 lies in."""
    return (int(label) - 1) // 2 if taxonomy.BY_NAME[name].kind == "score" else int(label)


def caption(labels: dict[str, object], rng: np.random.Generator | None = None) -> str:
    """Caption of a scene in the fixed order of `PHRASES`; with `rng`, a random part of it."""
    names = list(PHRASES)
    if rng is not None:
        names = [n for n in names if rng.uniform() < 0.6] or names[:1]
    said = [PHRASES[n][phrase_index(n, labels[n])] for n in names]
    return " ".join([f"A photo of {labels['subject']} and {labels['background']}.", *said])


def read_caption(text: str) -> dict[str, int]:
    """The phrase index of every attribute that a caption mentions, the first mention counting."""
    found = {}
    for name, phrases in PHRASES.items():
        places = [(text.find(p), i) for i, p in enumerate(phrases) if p in text]
        if places:
            found[name] = min(places)[1]
    return found


def number_text(rng: np.random.Generator) -> str:
    """One line about numbers from 0 to 10: order, neighbours, sorting, whole parts."""
    places = int(rng.integers(0, 4))
    a, b, *more = (f"{x:.{places}f}" for x in rng.uniform(0, 10 - 0.5 * 10**-places, 5))
    kind = rng.integers(5)
    if kind == 0:
        word = "less" if float(a) < float(b) else "more" if float(a) > float(b) else "the same"
        return f"{a} is {word} than {b}." if word != "the same" else f"{a} is the same as {b}."
    if kind == 1:
        return f"Sort {' '.join((a, b, *more))}: {' '.join(sorted((a, b, *more), key=float))}."
    if kind == 2:
        return f"The larger of {a} and {b} is {max(a, b, key=float)}."
    if kind == 3:
        return f"After {a} comes {float(a) + 10.0**-places:.{places}f}."
    return f"{a} lies between {int(float(a))} and {int(float(a)) + 1}."
