"""Number text, then scores (notebook 04): does a model that sorts better score better?

The language side of the backbone reads more or less number text while its vision tower is left as
it is. Every model so made sorts the lists of the probe, and is then fine-tuned on scores by one
recipe. `copying` is a control: as much text and as many digits, but nothing about their order.

With every step go captions of photographs, as in pretraining: of number text alone the model
forgets how to use what it sees, and whatever it then scores says nothing about numbers. `captions`
is the control without any text: further training by itself changes a model too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from realqa_utils import parallel
from realqa_utils.datasets.table import Split, Table
from realqa_utils.experiments import granularity, scorers, trials
from realqa_utils.images.views import View
from realqa_utils.model import backbone as backbones
from realqa_utils.model import hub_files
from realqa_utils.model.backbone import Backbone
from realqa_utils.number_sorting import number_sorters, sorting
from realqa_utils.profiles import Profile, is_dry_run
from realqa_utils.records import hashes, results
from realqa_utils.scoring.endpoints import Endpoint
from realqa_utils.training import batches, optimisers, pretraining

#: Modules whose code decides what a course gives, and what a model answers in the probe.
CODE = (
    "forms.captions", "model.backbone", "model.encoding", "model.language", "model.packed",
    "model.products", "number_sorting.number_text", "number_sorting.sorting", "training.batches",
    "training.optimisers", "training.pretraining",
)  # fmt: skip
CODE_OF_ANSWERS = ("model.backbone", "model.encoding", "number_sorting.number_sorters")
QUESTIONS = {"sorting": sorting.QUESTION, "copying": "Copy: "}
MOST_STEPS = 400
SHORTEST, LONGEST = 3, 10  # numbers in a list
FAMILY = ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct")
RATE, DECAY, BETAS = 1e-3, 0.02, (0.9, 0.98)
MUON_RATE = 5e-4  # half of that of pretraining
SPLITS_OF_PHOTOS = 2  # a training on photographs takes minutes
BASELINES = ("random order", "the list as given")
LISTS, LENGTHS = 200, (10, 3)  # of the probe: as in the paper, and an easier one
TOKENS = 60  # of the longest answer: five a number, and its end


@dataclass(frozen=True)
class Course:
    """What the language side reads before it learns to score: `steps` of a `task`."""

    task: str = "sorting"  # or copying, captions
    steps: int = 0
    seed: int = 0
    numbers: int = 50  # a step, in lists of one length
    captions: int = 8  # a step
    grows: bool = True  # from pairs to whole lists; else any of three to ten numbers all along
    muon: bool = False

    @property
    def name(self) -> str:
        return f"{self.task}, {self.steps} steps" if self.steps else "as shipped"


def courses(profile: Profile) -> list[Course]:
    """None, little and much sorting; as long copying and captions alone. The longest first."""
    most = min(2 * profile.recipe.steps, MOST_STEPS)
    return [
        Course("sorting", most),
        Course("copying", most),
        Course("captions", most),
        Course("sorting", most // 4),
        Course(),
    ]


def comparable(profile: Profile) -> list[str]:
    """Names of the models that are fairly compared: of courses, the longest, for whoever was
    trained for less is no match for them; of models as released, all."""
    return longest(courses(profile)) if teaches(profile) else list(_released(profile))


def longest(found: Sequence[Course]) -> list[str]:
    """Names of the courses that take as long as the first."""
    return [course.name for course in found if course.steps == found[0].steps]


def teaches(profile: Profile) -> bool:
    """Whether models are made to sort. Where only adapters are trained, the backbone and its
    sister models that are in the hub's cache are taken as they come, as the paper does."""
    return profile.recipe.language == "full"


def _released(profile: Profile) -> dict[str, str]:
    """Name -> source; in a dry run the profile's model stands in for all."""
    if is_dry_run():
        return dict.fromkeys(FAMILY, profile.model)
    found = [name for name in FAMILY if not hub_files.missing(name)]
    return {name: name for name in dict.fromkeys((profile.model, *found))}


# --- number text ---------------------------------------------------------------------------------


def length_at(share: float, rng: np.random.Generator) -> int:
    """Numbers in the lists of a step, after a `share` of all steps: from pairs to whole lists."""
    longest = 2 + (LONGEST - 2) * share**2
    return round(rng.uniform(max(2, longest / 2), longest))


def rate(steps: int, step: int) -> float:
    """Of the learning rate: a short rise, long at the top (copying is learnt late), and down."""
    return min(1.0, (step + 1) / (0.02 * steps), (steps - step) / (0.3 * steps))


def lines(
    course: Course, length: int, rng: np.random.Generator, forbidden: frozenset = frozenset()
) -> tuple[list[str], list[str]]:
    """Questions and answers of one step, none of them about a list in `forbidden` (of tuples)."""
    drawn = sorting.draw(rng, course.numbers // length, length)
    drawn = [numbers for numbers in drawn if tuple(numbers) not in forbidden]
    answers = [sorting.in_order(n) if course.task == "sorting" else n for n in drawn]
    return [QUESTIONS[course.task] + " ".join(n) for n in drawn], [" ".join(n) for n in answers]


def train(
    backbone: Backbone, course: Course, described: Table, forbidden: frozenset = frozenset()
) -> None:
    """Teach the language side a course, in place; the tower and the merger stay as they are.

    Captions are of the photographs of `described`, by its labels.
    """
    rng = np.random.default_rng([course.seed, *course.task.encode()])
    tokens, _ = batches.frozen_tokens(backbone, batches.Photographs(described, View()))
    labels = described.frame.to_dict("records")
    named = [(n, p) for n, p in backbone.model.named_parameters() if "visual" not in n]
    learnt = [parameter for _, parameter in named]
    if course.muon:
        optimiser = optimisers.muon(named, MUON_RATE, DECAY)
        schedule = optimisers.cosine(optimiser, course.steps)
    else:  # of small steps Muon would take up the half
        optimiser = torch.optim.AdamW(learnt, RATE, BETAS, weight_decay=DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(rate, course.steps))
    for step in range(course.steps):
        rows = rng.choice(len(labels), course.captions)
        pairs = [pretraining.conversation(labels[row], rng) for row in rows]
        loss = pretraining.caption_loss(backbone, [tokens[row] for row in rows], pairs)
        if course.task in QUESTIONS:
            if course.grows:
                length = length_at(step / course.steps, rng)
            else:
                length = int(rng.integers(SHORTEST, LONGEST + 1))
            loss = loss + text_loss(backbone, *lines(course, length, rng, forbidden))
        optimisers.take_step(loss, learnt, optimiser, schedule)
        backbone.prompts.clear()  # no question comes twice


def text_loss(backbone: Backbone, questions: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
    """Cross entropy of answers to questions without a photograph."""
    return pretraining.answer_loss(backbone, questions, answers, [None] * len(questions))


# --- models and what they say of the probe -------------------------------------------------------


def probe_lists(profile: Profile, seed: int) -> dict[int, list[list[str]]]:
    """The lists of the probe by their length; fewer where trainings are of a few steps only."""
    count = min(LISTS, 5 * profile.recipe.steps)
    return {length: sorting.lists(count, length, seed) for length in LENGTHS}


def models(
    profile: Profile, lists: Mapping[int, Sequence], taken: Sequence[Course] = ()
) -> dict[str, list[str]]:
    """Course -> where its models are, one for each of `seeds`: of those that are taught, each has
    read a text of its own, and the fine-tuning of its seed goes on from it.

    All are trained side by side, and kept on disk. The courses are `taken`, else those of notebook
    04.
    """
    if not teaches(profile):
        return {name: [source] * len(seeds(profile)) for name, source in _released(profile).items()}
    forbidden = frozenset(tuple(row) for rows in lists.values() for row in rows)
    described = granularity.split(profile).train
    job = partial(_model, profile.model, described, forbidden, results.run_dir(profile, "trials"))
    todo = [
        replace(course, seed=seed)
        for course, seed in product(taken or courses(profile), seeds(profile))
    ]
    places = parallel.run_all(job, todo, profile.workers, "number text")
    found: dict[str, list[str]] = {}
    for course, place in zip(todo, places, strict=True):
        found.setdefault(course.name, []).append(place)
    return found


def _model(source: str, described: Table, forbidden: frozenset, cache: Path, course: Course) -> str:
    if not course.steps:
        return source
    facts = {
        "course": asdict(course),
        "model": hashes.of_model(source),
        "code": hashes.of_code(CODE),
    }
    facts |= {"described": described.ids_hash, "forbidden": sorted(forbidden)}
    folder = cache / f"text-{hashes.of_facts(facts)}"
    if not folder.exists():
        with backbones.quiet():
            backbone = backbones.load(source)
            train(backbone, course, described, forbidden)
            results.write_folder(folder, backbone.save)
    return str(folder)


def answers(
    profile: Profile, places: Mapping[str, Sequence[str]], lists: Sequence[Sequence[str]]
) -> dict[str, pd.DataFrame]:
    """Frames of `sorting.probe`, baselines first; of models one below the other, told by `run`."""
    job = partial(
        _texts, [sorting.question(row) for row in lists], results.run_dir(profile, "trials")
    )
    todo = list(dict.fromkeys(place for runs in places.values() for place in runs))
    texts = parallel.run_all(job, todo, profile.workers, "sorting")
    said = dict(zip(todo, texts, strict=True))
    sorters = dict(zip(BASELINES, (number_sorters.shuffled(), number_sorters.copied), strict=True))
    found = {name: sorting.probe(sorter, lists) for name, sorter in sorters.items()}
    for name, runs in places.items():
        frames = [sorting.probe(_said(said[place]), lists) for place in runs]
        found[name] = pd.concat([f.assign(run=run) for run, f in enumerate(frames)])
    return found


def asked_at_endpoint(profile: Profile, lists: Sequence[Sequence[str]]) -> dict[str, pd.DataFrame]:
    """The same of the model behind REALQA_ENDPOINT_URL."""
    endpoint = Endpoint.from_environment()
    sorter = number_sorters.at_endpoint(endpoint, results.run_dir(profile, "endpoint"))
    return {endpoint.model: sorting.probe(sorter, lists)}


def _said(texts: Sequence[str]) -> sorting.Answerer:
    return lambda questions: texts


def _texts(questions: Sequence[str], cache: Path, source: str) -> list[str]:
    facts = {"model": hashes.of_model(source), "questions": questions}
    path = (
        cache / f"sorted-{hashes.of_facts(facts | {'code': hashes.of_code(CODE_OF_ANSWERS)})}.json"
    )
    if not path.exists():
        with backbones.quiet():
            backbone = backbones.load(source)
        results.write_json(path, number_sorters.checkpoint(backbone, TOKENS)(questions))
    return json.loads(path.read_text(encoding="utf-8"))


# --- scores --------------------------------------------------------------------------------------


def splits(profile: Profile) -> list[Split]:
    """What is scored: one split for each of `seeds`."""
    return scorers.splits(profile)[: len(seeds(profile))]


def seeds(profile: Profile) -> tuple[int, ...]:
    """Of the courses and the fine-tunings."""
    return profile.seeds if profile.data == "mini" else profile.seeds[:SPLITS_OF_PHOTOS]


def scores(
    profile: Profile, places: Mapping[str, Sequence[str]], data: Sequence[Split]
) -> dict[str, list[pd.DataFrame]]:
    """Readings (`trials.run`) of the test photographs after fine-tuning, by model, one a seed."""
    todo = [
        replace(scorers.trial(profile, split, profile.recipe, seed), model=place)
        for runs in places.values()
        for place, seed, split in zip(runs, seeds(profile), data, strict=True)
    ]
    frames = trials.run_all(todo, results.run_dir(profile, "trials"), profile.workers)
    count = len(data)
    return {name: frames[i * count : (i + 1) * count] for i, name in enumerate(places)}
