"""The mini world: six generated sets with opinion scores, stand-ins for the paper's six.

Each domain has its own look, its own mix of defects, its own taste (weights of the hidden quality)
and the MOS scale, mean, spread and rater noise of the real set that it stands for. Everything
follows from the seed. `build` writes the photographs as PNG files and returns the common table.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from realqa_utils.datasets import scenes
from realqa_utils.datasets.scenes import Look, Scene
from realqa_utils.datasets.table import Table, make_table
from realqa_utils.forms import taxonomy
from realqa_utils.forms.scores import Scale
from realqa_utils.parallel import run_all
from realqa_utils.records import results

AT_ONCE = 32  # photographs that a process draws before it looks for more
SIZE = 112  # pixels: 8 x 8 patches of 14, 16 tokens after the 2 x 2 merger


@dataclass(frozen=True)
class Taste:
    """Weights of the hidden quality: technical, aesthetic, arrangement, and their product."""

    technical: float
    aesthetic: float
    arrangement: float
    product: float


@dataclass(frozen=True)
class Domain:
    name: str
    stands_for: str
    scale: Scale
    mean: float  # of the MOS of the real set, measured on its annotation file
    spread: float  # standard deviation of the same
    raters: int
    rater_sd: float  # disagreement of the raters about one photo
    step: float  # granularity of one rating
    taste: Taste
    look: Look
    tiers: dict[str, tuple[float, ...]] = field(default_factory=dict)


_TECHNICAL, _AESTHETIC = Taste(0.5, 0.6, 0.8, 0.5), Taste(0.2, 1.0, 0.8, 0.6)
_BLURRED = {"image_clarity": (0.4, 0.3, 0.3)}
_SHARP = {"image_clarity": (0.2, 0.3, 0.5)}

DOMAINS: dict[str, Domain] = {
    d.name: d
    for d in (
        Domain(
            "mini-koniq", "KonIQ-10k", Scale(1, 5), 3.16, 0.549, 100, 0.58, 1.0, _TECHNICAL, Look()
        ),
        Domain(
            "mini-spaq", "SPAQ", Scale(0, 100), 49.9, 20.9, 16, 12.0, 1.0, _TECHNICAL,
            Look(warmth=0.5, noise=0.02, jpeg=70), _BLURRED,
        ),
        Domain(
            "mini-livec", "LIVE Challenge", Scale(0, 100), 55.4, 20.3, 175, 19.3, 1.0, _TECHNICAL,
            Look(noise=0.035, jpeg=50, motion=0.6, warmth=-0.3), _BLURRED,
        ),
        Domain(
            "mini-ava", "AVA", Scale(1, 10), 5.38, 0.732, 231, 1.44, 1.0, _AESTHETIC,
            Look(haze=0.25, texture=0.07), _SHARP,
        ),
        Domain(
            "mini-tad66k", "TAD66K", Scale(0, 10), 5.43, 1.448, 60, 1.6, 1.0, _AESTHETIC,
            Look(warmth=0.8, haze=0.1), _SHARP,
        ),
        Domain(
            "mini-konvid", "KoNViD-1k", Scale(1, 5), 3.03, 0.641, 64, 0.8, 1.0, _TECHNICAL,
            Look(noise=0.02, jpeg=40, motion=0.4),
        ),
    )
}  # fmt: skip


def get_domain(name: str) -> Domain:
    if name not in DOMAINS:
        raise ValueError(f"unknown mini domain {name!r}; one of {', '.join(DOMAINS)}")
    return DOMAINS[name]


def hidden_quality(scene: Scene, taste: Taste) -> float:
    """Quality of a scene before scaling; interactions make it more than a sum of attributes."""
    share = {name: getattr(scene, name) / 2 for name in ("image_clarity", "saturation")}
    exposure = (taxonomy.code("exposure", scene.exposure) - 1) / 2
    # Blur spoils a photo whatever its exposure; good exposure cannot rescue a blurred one.
    technical = share["image_clarity"] ** 0.7 * (0.4 + 0.6 * exposure)
    eye, order = (scenes.eye_catching(scene) - 1) / 9, (scenes.composition(scene) - 1) / 9
    aesthetic = 0.5 * eye + 0.35 * order + 0.15 * share["saturation"]
    # A crowded background matters less behind a subject that stands out.
    crowd = (1 - scene.background_clutter / 2) * (1 - 0.5 * scene.contrast)
    arrangement = (
        0.35 * scene.subject_integrity / 2
        + 0.2 * scene.subject_clutter / 2
        + 0.3 * (1 - crowd)
        + 0.15 * scene.level_shot
    )
    return (
        taste.technical * technical
        + taste.aesthetic * aesthetic
        + taste.arrangement * arrangement
        + taste.product * technical * aesthetic
    )


@lru_cache
def _quality_moments(name: str) -> tuple[float, float]:
    """Mean and standard deviation of the hidden quality over a domain, from 1,000 scenes."""
    domain, rng = DOMAINS[name], np.random.default_rng(0)
    drawn = (scenes.draw_scene(rng, domain.tiers) for _ in range(1000))
    quality = np.array([hidden_quality(scene, domain.taste) for scene in drawn])
    return float(quality.mean()), float(quality.std())


def scene_at(name: str, seed: int, index: int) -> Scene:
    """The scene number `index` of a domain; independent of how many are drawn."""
    domain = get_domain(name)
    key = [seed, list(DOMAINS).index(name), index]
    return scenes.draw_scene(np.random.default_rng(key), domain.tiers)


def rate(scene: Scene, name: str, seed: int, index: int) -> tuple[float, float]:
    """Simulated raters: MOS and the standard deviation of the ratings, on the domain's scale."""
    domain = get_domain(name)
    mean, sd = _quality_moments(name)
    truth = domain.mean + domain.spread * (hidden_quality(scene, domain.taste) - mean) / sd
    return ratings(truth, domain, seed, index)


def ratings(truth: float, domain: Domain, seed: int, index: int) -> tuple[float, float]:
    """What simulated raters say of a true quality on the domain's scale: mean and deviation."""
    # Two parts of the disagreement: what a rater is like, and what a rater thinks of this photo.
    bias = np.random.default_rng([seed, 7]).normal(0, 0.5 * domain.rater_sd, domain.raters)
    noise = np.random.default_rng([seed, index, 7]).normal(0, 0.87 * domain.rater_sd, domain.raters)
    said = np.round((truth + bias + noise) / domain.step) * domain.step
    said = np.clip(said, domain.scale.low, domain.scale.high)
    return float(said.mean()), float(said.std(ddof=1))


def labels(scene: Scene) -> dict[str, object]:
    """Every attribute of a scene: scores 1..10 and their reasons, tier indices, and words."""
    tiers = {name: getattr(scene, name) for name in taxonomy.SCORED[2:]}
    return {
        "eye_catching": scenes.eye_catching(scene),
        "composition": scenes.composition(scene),
        **tiers,
        "subject": scene.subject,
        "background": scene.background,
        "subject_background": f"{scene.subject}, behind it {scene.background}",
        "kind": scene.kind,
        **scenes.reasons(scene),
    }


def _row(name: str, seed: int, folder: Path, index: int) -> dict[str, object]:
    """Write a photograph; what the table says of it."""
    scene = scene_at(name, seed, index)
    image = scenes.render(scene, DOMAINS[name].look, SIZE)
    file = f"{index:06d}.png"
    image.save(folder / file, compress_level=1)
    mos, std = rate(scene, name, seed, index)
    identity = {"id": f"{name}/{seed}/{index:06d}", "path": file, "mos": mos, "std": std}
    return identity | labels(scene)


@lru_cache
def world_version() -> str:
    """Hash of eight photographs, MOS and labels of every domain: it changes when they do.

    Eight, because every subject, background and tier is among them.
    """
    digest = hashlib.sha256()
    for name, index in product(DOMAINS, range(8)):
        digest.update(photograph(name, 0, index).tobytes())
        scene = scene_at(name, 0, index)
        digest.update(repr((rate(scene, name, 0, index), labels(scene))).encode())
    return digest.hexdigest()[:8]


def build(name: str, count: int, seed: int, cache: Path, workers: int | None = None) -> Table:
    """Render `count` photographs of a domain below `cache`, or read them if they are there.

    The table has the attributes of every photo as further columns: scores, tier indices, words.
    Raises ValueError for an unknown domain or a count below 1.
    """
    domain = get_domain(name)
    if count < 1:
        raise ValueError(f"{name}: count must be at least 1, got {count}")
    folder = Path(cache) / f"{name}-{seed}-{count}-{world_version()}"
    table = folder / "labels.csv"
    if not table.exists():
        _write(name, count, seed, folder, workers)
    frame = pd.read_csv(table, dtype={"id": str})
    frame["path"] = [str(folder / file) for file in frame["path"]]
    return make_table(name, domain.scale, frame, source=table)


def _write(name: str, count: int, seed: int, folder: Path, workers: int | None) -> None:
    """Render part by part, which several processes share, then move all into place in one step."""
    work, table = folder.with_name(f".{folder.name}"), folder / "labels.csv"
    drawn = work / "photographs"
    drawn.mkdir(parents=True, exist_ok=True)
    parts = [range(at, min(at + AT_ONCE, count)) for at in range(0, count, AT_ONCE)]
    kept = [work / f"rows-{part.start:06d}.json" for part in parts]

    def draw(task: tuple[Path, range]) -> None:
        path, part = task
        if not table.exists():  # else another process has finished
            make = partial(_row, name, seed, drawn)
            results.once(path, lambda: results.write_json(path, [make(index) for index in part]))

    def finish() -> None:
        if table.exists():
            return
        rows = [row for path in kept for row in json.loads(path.read_text("utf-8"))]
        pd.DataFrame(rows).to_csv(drawn / "labels.csv", index=False)
        shutil.rmtree(folder, ignore_errors=True)  # without a table: left by an old version
        drawn.rename(folder)

    try:
        run_all(draw, list(zip(kept, parts, strict=True)), workers, f"drawing {name}")
        results.once(work / "done", finish)
    except FileNotFoundError:
        if not table.exists():  # else another process has finished, and tidied up
            raise
    shutil.rmtree(work, ignore_errors=True)


def photograph(name: str, seed: int, index: int) -> Image.Image:
    """One photograph of a domain, without writing anything."""
    return scenes.render(scene_at(name, seed, index), get_domain(name).look, SIZE)
