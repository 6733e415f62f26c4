"""The ten fine-grained attributes of RealQA: levels, tiers, words and codes (Sec. 3.1, Fig. 1a).

A *tier* is one allowed answer; its *code* is the integer that Table 1 correlates, coded so that a
higher code is the better photo. `eye_catching` and `composition` are scores from 1 to 10 and are
their own code; `subject_background` is free text and is not scored, so Table 1 has nine columns.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("high", "middle", "low")


@dataclass(frozen=True)
class Tier:
    words: str
    code: int


@dataclass(frozen=True)
class Attribute:
    """One attribute. `kind` is "score" (1..10), "tier" (one of `tiers`) or "text"."""

    name: str
    title: str
    level: str
    kind: str
    tiers: tuple[Tier, ...] = ()

    @property
    def codes(self) -> tuple[int, ...]:
        """Every code that the attribute can take, ascending."""
        if self.kind == "score":
            return tuple(range(1, 11))
        return tuple(sorted({tier.code for tier in self.tiers}))


def _tiers(*pairs: tuple[str, int]) -> tuple[Tier, ...]:
    return tuple(Tier(words, code) for words, code in pairs)


_CLUTTER = _tiers(("cluttered", 1), ("moderately cluttered", 2), ("uncluttered", 3))

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("eye_catching", "Eye-Catching", "high", "score"),
    Attribute("composition", "Composition", "high", "score"),
    Attribute("subject_background", "Subject and Background", "middle", "text"),
    Attribute(
        "subject_integrity",
        "Subject Integrity",
        "middle",
        "tier",
        _tiers(
            ("incomplete (mostly cut off or mostly obscured)", 1),
            ("partially complete (slightly cut off or slightly obscured)", 2),
            ("complete", 3),
        ),
    ),
    Attribute("subject_clutter", "Subject Clutter", "middle", "tier", _CLUTTER),
    Attribute("background_clutter", "Background Clutter", "middle", "tier", _CLUTTER),
    Attribute("level_shot", "Level Shot", "middle", "tier", _tiers(("tilted", 0), ("level", 1))),
    Attribute(
        "image_clarity",
        "Image Clarity",
        "low",
        "tier",
        _tiers(("blurry", 1), ("slightly blurry", 2), ("clear", 3)),
    ),
    Attribute(
        "exposure",
        "Exposure",
        "low",
        "tier",
        # Ordered by quality: proper exposure above both kinds of error, so codes repeat.
        _tiers(
            ("underexposed", 1),
            ("slightly underexposed", 2),
            ("properly exposed", 3),
            ("slightly overexposed", 2),
            ("overexposed", 1),
        ),
    ),
    Attribute(
        "saturation",
        "Saturation",
        "low",
        "tier",
        _tiers(("dull", 1), ("moderate", 2), ("vivid", 3)),
    ),
)

BY_NAME: dict[str, Attribute] = {attribute.name: attribute for attribute in ATTRIBUTES}

#: The nine columns of Table 1.
SCORED: tuple[str, ...] = tuple(a.name for a in ATTRIBUTES if a.kind != "text")


def of_level(level: str) -> tuple[Attribute, ...]:
    """The attributes of one level, in the order of the taxonomy."""
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}; one of {', '.join(LEVELS)}")
    return tuple(a for a in ATTRIBUTES if a.level == level)


def code(name: str, tier: int) -> int:
    """Code of a tier index (of a score: the score itself).

    >>> code("exposure", 4), code("eye_catching", 7)
    (1, 7)
    """
    attribute = BY_NAME[name]
    return int(tier) if attribute.kind == "score" else attribute.tiers[int(tier)].code
