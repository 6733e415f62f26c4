"""Plain texts that the mini backbone is pretrained on: captions of scenes, numbers and words.

Captions say the tiers in the taxonomy's own everyday words ("slightly blurry"), as a general model
knows them, each after an everyday noun ("the details are ..."). The titles of the attributes are
known as words only, never of a photograph; the questions, the forms of the answers and all scores
are left for training to teach, so that there is something to reproduce.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from realqa_utils.forms import taxonomy

QUESTION = "Describe this photo."


def _tiers(name: str) -> tuple[str, ...]:
    """The words of each tier, without the explanation in brackets."""
    return tuple(tier.words.split(" (")[0] for tier in taxonomy.BY_NAME[name].tiers)


#: What a caption speaks of, and what it says of each tier index; of the two scores, of each fifth
#: of 1..10.
TOPICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "image_clarity": ("details", _tiers("image_clarity")),
    "exposure": ("light", _tiers("exposure")),
    "saturation": ("colours", _tiers("saturation")),
    "level_shot": ("horizon", _tiers("level_shot")),
    "subject_integrity": ("outline", _tiers("subject_integrity")),
    "subject_clutter": ("front", _tiers("subject_clutter")),
    "background_clutter": ("surroundings", _tiers("background_clutter")),
    "eye_catching": ("effect", ("lost", "small", "fair", "strong", "stunning")),
    "composition": ("position", ("bad", "poor", "decent", "good", "perfect")),
}


def _phrase(noun: str, words: str) -> str:
    return f"The {noun} {'are' if noun.endswith('s') else 'is'} {words}."


PHRASES: dict[str, tuple[str, ...]] = {
    name: tuple(_phrase(noun, words) for words in said) for name, (noun, said) in TOPICS.items()
}


def phrase_index(name: str, label: int) -> int:
    """Which phrase describes a label: the tier itself, or the fifth that a score 1..10 lies in."""
    return (int(label) - 1) // 2 if taxonomy.BY_NAME[name].kind == "score" else int(label)


def caption(labels: dict[str, object]) -> str:
    """Caption of a scene: what it shows, then every topic in the order of `TOPICS`."""
    said = (PHRASES[name][phrase_index(name, labels[name])] for name in TOPICS)
    return " ".join((f"A photo of {labels['subject']} and {labels['background']}.", *said))


def guided_caption(labels: dict[str, object], rng: np.random.Generator) -> tuple[str, str]:
    """A request for some topics, in any order, and the caption that speaks of just these.

    They teach to look at what is asked for, which a caption in one fixed order does not.
    """
    names = rng.permutation(list(TOPICS))[: min(rng.geometric(0.4), len(TOPICS))]
    said = " ".join(PHRASES[name][phrase_index(name, labels[name])] for name in names)
    *others, last = (f"the {TOPICS[name][0]}" for name in names)
    asked = f"{', '.join(others)} and {last}" if others else last
    return f"Describe {asked} of this photo.", said


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


def word_text(words: Sequence[str], rng: np.random.Generator) -> str:
    """One line about words: a few of them said twice, or what the title of an attribute is about.

    A word that is never said keeps no vector of its own: the softmax pushes all such words to one
    place, from where a fine-tuning of some hundred steps can not tell them apart.
    """
    if rng.uniform() < 0.7:
        said = " ".join(rng.choice(words, rng.integers(2, 7)))
        return f"Say {said}: {said}."
    name = rng.choice(list(TOPICS))
    title, noun = taxonomy.BY_NAME[name].title, TOPICS[name][0]
    return f"{title} is about the {noun}." if rng.uniform() < 0.5 else f"The {noun}: {title}."
