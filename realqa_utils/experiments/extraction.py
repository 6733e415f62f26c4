"""The experiment of Table 1 (notebook 02): who tells the nine attributes of a photograph best.

Ours after stage 1, the backbone as it comes, the most frequent answer, and any model behind an
endpoint, all on the same photographs. The paper's rows stand beside, marked as not comparable.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from realqa_utils.claims import paper
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import attribute_scores, granularity, trials
from realqa_utils.experiments.attribute_scores import AVERAGE
from realqa_utils.forms import captions, taxonomy
from realqa_utils.forms.conversations import MIX, Parsed, Slot
from realqa_utils.images.photos import open_photo
from realqa_utils.model import backbone as backbones
from realqa_utils.profiles import Profile
from realqa_utils.records import results
from realqa_utils.scoring import endpoints, labelling

CLAIM = "T1-stage1-beats-zero-shot"
NOTEBOOK = "02_attribute_extraction"
OURS, UNTAUGHT, DESCRIBED = "after stage 1", "untuned, asked", "untuned, its captions read"
MAJORITY = "most frequent answer"
Runs = Mapping[str, Sequence[pd.DataFrame]]  # model -> frames of `labelling.as_frame`, per seed


def runs(profile: Profile, data: Split) -> dict[str, Sequence[pd.DataFrame]]:
    """Labels of the test photographs by every model that is at hand."""
    taught = profile.stage_1.form
    ours = granularity.readings(profile, data, [taught])[taught, granularity.TOLD]
    train, truth = (labelling.true_codes(side.frame) for side in (data.train, data.test))
    found: dict[str, Sequence[pd.DataFrame]] = {OURS: ours}
    found |= untaught(profile, data)
    found[MAJORITY] = [attribute_scores.majority(train, truth)]
    return found


def untaught(profile: Profile, data: Split) -> dict[str, Sequence[pd.DataFrame]]:
    """The backbone as it comes, asked in the form of the paper; the mini one's captions too.

    The mini backbone can say what it sees in captions, not in the paper's form: both are shown.
    """
    backbone = backbones.load(profile.model)
    ids, images = data.test.frame["id"], _opened(data)
    said = labelling.merge([(MIX, labelling.ask(backbone, images, MIX.question))])
    found = {UNTAUGHT: [labelling.as_frame(said, ids)]}
    if profile.model == "mini":
        texts = labelling.ask(backbone, images, captions.QUESTION)
        found[DESCRIBED] = [described(texts, ids)]
    return found


def described(texts: Sequence[str], ids: Sequence[str]) -> pd.DataFrame:
    """Captions as labels; of a score a caption tells the fifth, whose middle stands for it."""
    rows = []
    for identity, text in zip(ids, texts, strict=True):
        found = captions.read_caption(text)
        for name in taxonomy.SCORED:
            said = _caption_code(name, found[name]) if name in found else np.nan
            why = "" if name in found else "not mentioned"
            rows.append({"id": identity, "attribute": name, "said": said, "why": why})
    return pd.DataFrame(rows)


def _caption_code(name: str, phrase: int) -> float:
    return (
        2 * phrase + 1.5 if taxonomy.BY_NAME[name].kind == "score" else taxonomy.code(name, phrase)
    )


def asked_at_endpoint(profile: Profile, data: Split) -> dict[str, Sequence[pd.DataFrame]]:
    """Labels by the model behind REALQA_ENDPOINT_URL, which is told the layout and the choices."""
    endpoint = endpoints.Endpoint.from_environment()
    jobs = [(MIX.instruction, path) for path in data.test.frame["path"]]
    answers = endpoints.ask(endpoint, jobs, results.run_dir(profile, "endpoint"))
    parsed = labelling.merge([(MIX, [answer.text for answer in answers])])
    for said, answer in zip(parsed, answers, strict=True):
        if answer.problem:
            said.missing.update(dict.fromkeys(said.missing, f"no answer: {answer.problem}"))
    return {endpoint.model: [labelling.as_frame(parsed, data.test.frame["id"])]}


def reasons_why_not(found: Runs) -> pd.DataFrame:
    """How many values every model was asked for, how many it gave, and why not, most often."""
    rows = []
    for model, frames in found.items():
        every = pd.concat(frames)
        why = every.loc[every["said"].isna(), "why"].astype(str)  # floats where there is none
        why = why.str.split(":").str[0].value_counts()
        rows.append(
            {"model": model, "asked for": len(every), "given": int(every["said"].notna().sum()),
             "why not": ", ".join(f"{reason} ({n})" for reason, n in why.head(3).items())}
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("model")


def table(profile: Profile, data: Split, found: Runs, seed: int) -> pd.DataFrame:
    """Per attribute and on average, SRCC and PLCC of every model, tidy."""
    truth = labelling.true_codes(data.test.frame)
    parts = []
    for model, frames in found.items():
        seeds = granularity.seeds(profile) if len(frames) > 1 else granularity.seeds(profile)[:1]
        facts = {"dataset": data.name, "model": model, "seeds": seeds}
        parts.append(attribute_scores.table(frames, truth, seed, profile.resamples, **facts))
    return pd.concat(parts, ignore_index=True)


def shown(table: pd.DataFrame, metric: str = "srcc") -> pd.DataFrame:
    """Attributes by models."""
    part = table[table["metric"] == metric]
    wide = part.pivot(index="attribute", columns="model", values="estimate")
    wide = wide.loc[[*taxonomy.SCORED, AVERAGE], list(dict.fromkeys(part["model"]))]
    return _with_na(wide.rename_axis(columns=None).round(3))


def _with_na(wide: pd.DataFrame) -> pd.DataFrame:
    return wide.astype(object).where(wide.notna(), "N.A.")


def printed(metric: str = "srcc") -> pd.DataFrame:
    """The paper's Table 1, on RealQA with models of 7B and more: not comparable with ours."""
    rows = paper.printed(1).query("metric == @metric")
    wide = rows.pivot(index="column", columns="row", values="value")
    order = [name for name in (*taxonomy.SCORED, AVERAGE) if name in wide.index]
    return _with_na(wide.loc[order, list(dict.fromkeys(rows["row"]))].rename_axis(columns=None))


def verdict(profile: Profile, data: Split, found: Runs, seed: int) -> pd.DataFrame:
    """Average SRCC after stage 1 minus that of the untuned backbone in each of its ways."""
    truth = labelling.true_codes(data.test.frame)
    rows = []
    for other in (UNTAUGHT, DESCRIBED):
        if other in found:
            frames = list(found[other]) * len(found[OURS])  # the same for every seed
            interval = attribute_scores.difference(
                found[OURS], frames, truth, seed, profile.resamples
            )
            rows.append(
                {"dataset": data.name, "model": f"{OURS} minus {other}", "metric": "average srcc",
                 "estimate": interval.estimate, "low": interval.low, "high": interval.high,
                 "n": interval.n, "seeds": granularity.seeds(profile),
                 "verdict": paper.verdict(interval.low, interval.high)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def confusion(found: Runs, data: Split) -> dict[str, pd.DataFrame]:
    """Shares of the answers (columns) for every true code (rows), over all seeds, ours."""
    truth = labelling.true_codes(data.test.frame)
    said = pd.concat(found[OURS]).dropna(subset="said")
    said["truth"] = [truth.at[i, n] for i, n in zip(said["id"], said["attribute"], strict=True)]
    return {
        name: pd.crosstab(part["truth"], part["said"], normalize="index")
        for name, part in said.groupby("attribute", sort=False)
    }


def model(profile: Profile, data: Split) -> backbones.Backbone:
    """The backbone after stage 1, of the first seed."""
    trial = granularity.teacher(profile, data, granularity.seeds(profile)[0])
    return trials.trained(trial, results.run_dir(profile, "trials"))


def cards(model: backbones.Backbone, data: Split, count: int) -> tuple[list, list]:
    """The first test photographs, and what a model says of each with its reasons."""
    frame = data.test.frame.head(count)
    images = [open_photo(path) for path in frame["path"]]
    texts = []
    for said, (_, truth) in zip(labelling.label(model, images), frame.iterrows(), strict=True):
        texts.append([line for slot in MIX.slots for line in _lines(slot, said, truth)])
    return images, texts


def _lines(slot: Slot, said: Parsed, truth: pd.Series) -> list[tuple[str, str]]:
    """Title and words of a value, below it the reason; none for the slot of a reason itself."""
    name = slot.attribute.name
    if slot.is_reason:
        return []
    words = "(no answer)"
    if name in said.values:
        words = slot.say(said.values[name]).split(" (")[0]
        if slot.attribute.kind != "text" and said.values[name] != truth[name]:
            words += " †"
    reason = textwrap.shorten(said.reasons.get(name, ""), 90, placeholder=" ..")
    return [(slot.attribute.title, words)] + ([("", reason)] if reason else [])


def _opened(data: Split) -> list:
    return [partial(open_photo, path) for path in data.test.frame["path"]]


def save(
    profile: Profile, data: Split, result: pd.DataFrame, judged: pd.DataFrame,
    figures: Mapping[str, Figure], watch: results.Stopwatch,
) -> str:  # fmt: skip
    """Write the tables, the figures, and the claim: against the untuned backbone, asked alike."""
    facts = attribute_scores.facts(profile, data, granularity.seeds(profile), watch)
    results.save(NOTEBOOK, profile, result, figures=dict(figures), **facts)
    path = results.save(f"{NOTEBOOK}_verdicts", profile, judged, **facts)
    asked = judged.iloc[0]
    results.record_claim(
        profile,
        CLAIM,
        notebook="02",
        measured=asked["model"],
        **asked[results.FOUND],
        seeds=granularity.seeds(profile),
    )
    return path.parent.name


def summary(table: pd.DataFrame, judged: pd.DataFrame) -> str:
    """The result in sentences."""
    ours = table[(table["model"] == OURS) & (table["metric"] == "srcc")]
    single = ours[ours["attribute"] != AVERAGE].set_index("attribute")["estimate"]
    mean = ours[ours["attribute"] == AVERAGE].iloc[0]
    said = [
        f"After stage 1 the mean SRCC is {mean['estimate']:.3f} "
        f"[{mean['low']:.3f}, {mean['high']:.3f}]."
    ]
    if single.notna().any():
        hardest, easiest = (taxonomy.BY_NAME[n].title for n in (single.idxmin(), single.idxmax()))
        said.append(
            f"The hardest attribute is {hardest} ({single.min():.3f}), "
            f"the easiest {easiest} ({single.max():.3f})."
        )
    for row in judged.itertuples():
        interval = f"{row.estimate:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        said.append(f"{row.model[0].upper()}{row.model[1:]}: {interval} ({row.verdict}).")
    return "\n".join(said)
