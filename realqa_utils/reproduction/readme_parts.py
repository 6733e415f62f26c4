"""The parts of README's generated part: a result table and its path -> Markdown."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from realqa_utils.claims.comparison import cell
from realqa_utils.experiments import training_length
from realqa_utils.model import backbone
from realqa_utils.number_sorting import sorting_length

# --- pieces --------------------------------------------------------------------------------------


def paragraphs(*parts: str) -> str:
    return "\n\n".join(parts)


def lines(header: str, *rows: str) -> str:
    """Markdown of a table from its lines without the outer bars."""
    rule = "---|" * (header.count("|") + 1)
    return "\n".join([f"| {header} |", f"|{rule}", *(f"| {row} |" for row in rows)])


def _grid(table: pd.DataFrame, index: str, columns: str, first: str, form: str = ".3f") -> str:
    """Markdown of a tidy table: one row an `index`, one column a `columns`."""
    across = list(dict.fromkeys(table[columns]))
    rows = []
    for name in dict.fromkeys(table[index]):
        part = table[table[index] == name].set_index(columns)
        cells = [cell(part.loc[column], form) if column in part.index else "" for column in across]
        rows.append(f"{name} | {' | '.join(cells)}")
    return lines(f"{first} | {' | '.join(map(str, across))}", *rows)


def _verdicts(path: Path, claim: str, *names: str) -> str:
    """What was judged beside the table of `path`, each row under the values of its `names`."""
    lines = [claim, ""]
    for row in pd.read_csv(path.with_name(f"{path.stem}_verdicts.csv")).to_dict("records"):
        name = ", ".join(row[column] for column in names)
        lines.append(
            f"- {name}: **{row['verdict']}** "
            f"({row['estimate']:+.3f}, {row['low']:+.3f} to {row['high']:+.3f})"
        )
    return "\n".join(lines)


def _record(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


# --- notebooks: a table, and its path -> Markdown ------------------------------------------------


def _digit_count(table: pd.DataFrame, path: Path) -> str:
    table = table[table["metric"] == "srcc"]
    record = _record(path)
    head = (
        f"**Notebook 05 on `{record['profile']}`**: SRCC [95 % interval] on held-out photographs. "
        f"{record['n_parsed']} of {record['n']} free-running answers could be read. "
        f"Interval: {record['interval']}."
    )
    ceiling = table[table["model"] == "rounding alone"].set_index(["dataset", "digits"])["estimate"]
    rows = []
    for row in table[table["model"] != "rounding alone"].to_dict("records"):
        limit = ceiling.get((row["dataset"], row["digits"]))
        digits = "" if pd.isna(row["digits"]) else f"{row['digits']:.0f}"
        limit = "" if limit is None else f"{limit:.3f}"
        rows.append(f"{row['dataset']} | {row['model']} | {digits} | {cell(row)} | {limit}")
    grid = lines("set | read as | M | SRCC | ceiling of rounding", *rows)
    claim = "Claim *M = 3 beats M = 1*, paired difference of SRCC:"
    return paragraphs(head, grid, _verdicts(path, claim, "dataset", "model"))


def _composite(table: pd.DataFrame, path: Path) -> str:
    table = table[(table["metric"] == "srcc") & (table["model"] != "single")]
    rows = [f"{row['model']} | {cell(row)}" for row in table.to_dict("records")]
    curation = pd.read_csv(path.with_name(f"{path.stem}_curation.csv")).dropna(subset="estimate")
    found = curation.pivot(index="defect", columns="metric", values="estimate")
    said = [
        f"{defect.replace('_', ' ')} {row['precision']:.2f} / {row['recall']:.2f}"
        for defect, row in found.iterrows()
    ]
    return paragraphs(
        "**Notebook 01 on `mini`**: a composite of the true labels, on held-out photographs.",
        lines("score from nine attributes | SRCC with the raters' mean", *rows),
        f"Curation, precision / recall on defects drawn in: {', '.join(said)}.",
    )


def _attributes(table: pd.DataFrame, path: Path) -> str:
    table = table[table["metric"] == "srcc"]
    head = (
        "**Notebook 02 on `mini`**: SRCC [95 % interval] of attribute codes on "
        f"{table['n'].iloc[0]} held-out photographs. N.A.: the form is not followed."
    )
    claim = "Claim *stage 1 beats the model as it comes*, difference of the average:"
    grid = _grid(table, "attribute", "model", "attribute")
    return paragraphs(head, grid, _verdicts(path, claim, "model"))


def _transfer(table: pd.DataFrame, path: Path) -> str:
    head = (
        f"**Notebook 02 on `photos`**: SRCC with the MOS of {table['n'].iloc[0]} photographs of "
        "LIVE Challenge, of attributes that were learnt from generated scenes, and of "
        "a plain sharpness feature."
    )
    return paragraphs(head, _grid(table, "attribute", "model", "attribute", "+.3f"))


def _granularity(table: pd.DataFrame, path: Path) -> str:
    table = table[table["attribute"] == "average"]
    table = table.assign(row=table["model"] + ", asked: " + table["asked"])
    head = "**Notebook 03 on `mini`**: mean SRCC and PLCC over the nine attributes."
    claim = "Claim *all granularities together are best*, paired difference of the mean SRCC:"
    grid = _grid(table, "row", "metric", "trained on")
    return paragraphs(head, grid, _verdicts(path, claim, "model"))


def _curves(table: pd.DataFrame, path: Path) -> str:
    table = table[table["step"] == table["step"].max()]
    head = (
        "**Notebook 06 on `mini`**: held-out values [95 % interval over trainings] after step "
        f"{table['step'].iloc[0]}."
    )
    chosen = table[table["metric"].isin(["ncm", "ncm_star", "digit_ce", "srcc_expected"])]
    question = (
        "Does a lower value foresee a higher SRCC of free-running scores? Rank correlation over "
        "trainings and checkpoints:"
    )
    foreseen = pd.read_csv(path.with_name(f"{path.stem}_foresight.csv"))
    claim = "Claims *NCM falls* and *NCM\\* falls*, in squared points, cross entropy alone:"
    return paragraphs(
        head,
        _grid(chosen, "model", "metric", "trained with"),
        _verdicts(path, claim, "metric"),
        question,
        _grid(foreseen, "model", "scope", "lower is better", "+.2f"),
    )


def captions() -> str:
    record = json.loads((backbone.MINI_FOLDER / "record.json").read_text())
    rows = [
        f"{row['attribute']} | {row['accuracy']:.2f} | {row['chance']:.2f}"
        for row in record["caption_accuracy"]
    ]
    head = (
        f"**The shipped mini backbone**: free-running captions of {record['held_out_scenes']} "
        "generated scenes that it never saw."
    )
    return paragraphs(head, lines("attribute | accuracy | most frequent answer", *rows))


def _speed(table: pd.DataFrame, path: Path) -> str:
    wide = table.pivot(index="model", columns="metric", values="estimate")
    rows = [
        f"{model} | {row['samples/s']:.0f} | {row['plain samples/s']:.0f} | {row['ratio']:.1f}"
        for model, row in wide.iterrows()
    ]
    head = (
        f"**Training speed** on {_record(path)['cpus']} CPU cores against a plain `Trainer`, "
        "both in one run (`realqa benchmark`)."
    )
    header = "trained part | ours, samples/s | plain, samples/s | ratio"
    return paragraphs(head, lines(header, *rows))


def _ncm_cost(table: pd.DataFrame, path: Path) -> str:
    rows = [
        f"{row.model} | {row.metric} | {row.estimate:.3g} | {row.low:.3g} to {row.high:.3g}"
        for row in table.itertuples()
    ]
    head = (
        f"**What listening to NCM costs** on {_record(path)['cpus']} CPU cores "
        "(`realqa benchmark-ncm`)."
    )
    return paragraphs(head, lines("what | measure | median | range", *rows))


def _objectives(table: pd.DataFrame, path: Path) -> str:
    record, table = _record(path), table[table["metric"] == "srcc"]
    head = (
        f"**Notebook 07 on `{record['profile']}`**: SRCC [95 % interval] after equal steps on the "
        f"same photographs of {table['dataset'].iloc[0]}."
    )
    claim = "Digits, M = 3, minus each other method, paired difference of SRCC:"
    grid = _grid(table, "model", "read", "what is taught")
    return paragraphs(head, grid, _verdicts(path, claim, "read", "model"))


def _longer_chains(table: pd.DataFrame, path: Path) -> str:
    head = (
        f"**Chains trained longer, on `{_record(path)['profile']}`**: SRCC [95 % interval] by "
        "training steps, and with chains minus without (`realqa lengths chains`)."
    )
    return _lengths(head, table)


def _longer_granularity(table: pd.DataFrame, path: Path) -> str:
    head = (
        f"**Notebook 03 with longer trainings, on `{_record(path)['profile']}`**: mean SRCC [95 % "
        "interval] over the nine attributes by training steps, and all forms together minus "
        "others (`realqa lengths granularity`)."
    )
    return _lengths(head, table)


def _lengths(head: str, table: pd.DataFrame) -> str:
    table = training_length.labelled(table)
    models, others = training_length.models(table), training_length.differences(table)
    grid = _grid(models, "row", "steps", "trained on")
    return paragraphs(head, grid, _grid(others, "row", "steps", "difference", "+.3f"))


def _chains(table: pd.DataFrame, path: Path) -> str:
    record, table = _record(path), table[table["metric"] == "srcc"]
    table = table.assign(row=table["model"] + ", asked: " + table["form"])
    head = (
        f"**Notebook 08 on `{record['profile']}`**: SRCC [95 % interval], at equal steps and, in "
        "the paper's proportion, at a third of them without chains."
    )
    claim = "Claim *chain of thought beats direct*, SRCC asked and read so, minus that of:"
    grid = _grid(table, "row", "read", "trained on")
    return paragraphs(head, grid, _verdicts(path, claim, "form", "read", "against"))


def _domains(table: pd.DataFrame, path: Path) -> str:
    record, table = _record(path), table[table["metric"] == "srcc"]
    table = table.assign(row=table["model"] + ", " + table["read"])
    head = (
        f"**Notebook 09 on `{record['profile']}`**: SRCC [95 % interval] of models trained on the "
        "first set and asked about every one."
    )
    claim = "Claim *chains are better on unseen sets*, paired difference of SRCC:"
    grid = _grid(table, "row", "dataset", "trained on, read as")
    return paragraphs(head, grid, _verdicts(path, claim, "dataset", "read"))


def _cost(table: pd.DataFrame, path: Path) -> str:
    record = _record(path)
    head = (
        f"**Notebook 12 on `{record['profile']}`**: photographs per second on "
        f"{table['threads'].max()} threads, median [least, most] of alternating rounds. The aims "
        "are for four."
    )
    compared = pd.read_csv(path.with_name(f"{path.stem}_ratios.csv"))
    rows = [
        f"{r.model} | {r.metric.removeprefix('time over that of ')} | {r.estimate:.2f} | "
        f"{r.low:.2f} to {r.high:.2f} | {r.aim} | {'yes' if r.reached else 'no'}"
        for r in compared.itertuples()
    ]
    ratios = lines("time of | over that of | ratio | range | aim | reached", *rows)
    said = [
        f"{r.model}: {r.metric.replace(' over that of ', f' {r.estimate:.2f} times that of ')} "
        f"({r.aim}: {'yes' if r.reached else 'no'})."
        for r in pd.read_csv(path.with_name(f"{path.stem}_constancy.csv")).itertuples()
    ]
    grid = _grid(table, "model", "size", "way", ",.1f")
    return paragraphs(head, grid, ratios, " ".join(said))


def _sorting(table: pd.DataFrame, path: Path) -> str:
    scores = pd.read_csv(path.with_name(f"{path.stem}_scores.csv"))
    head = (
        f"**Notebook 04 on `mini`**: {table['dataset'].iloc[0]}, and the SRCC after the same "
        "fine-tuning on scores [95 % interval]. Hallucination: share of the answered "
        "numbers that were not given."
    )
    return _sorters(head, table, scores, path)


def _longer_sorting(table: pd.DataFrame, path: Path) -> str:
    lists, scores = sorting_length.parts(table)
    lists = lists[lists["dataset"] == lists["dataset"].iloc[0]]
    head = (
        f"**Notebook 04 with longer courses, on `{_record(path)['profile']}`** (`realqa lengths "
        "sorting`): the same."
    )
    return _sorters(head, lists, scores, path)


def _sorters(head: str, table: pd.DataFrame, scores: pd.DataFrame, path: Path) -> str:
    scores = scores[scores["reading"] == "greedy"].assign(metric="SRCC later, greedy")
    claim = "Claim *better sorters score better*, places right and SRCC, paired:"
    grid = _grid(pd.concat([table, scores]), "model", "metric", "model")
    return paragraphs(head, grid, _verdicts(path, claim, "model", "metric"))


def _gpu(table: pd.DataFrame, path: Path) -> str:
    record = _record(path)
    card, what = record["notes"].split("; ", 1)
    head = (
        f"**`{record['profile']}` on one {card}** ({what}; torch {record['versions']['torch']}; "
        "`realqa benchmark-gpu`): median, and least and most of the repetitions. Planned is what "
        "`realqa plan` said."
    )
    rows = [
        f"{r.model} | {r.metric} | {r.estimate:.3g} | {r.low:.3g} to {r.high:.3g} | "
        f"{'' if pd.isna(r.planned) else f'{r.planned:.3g}'}"
        for r in table.itertuples()
    ]
    return paragraphs(head, lines("what | measure | median | range | planned", *rows))


#: In the order of the page: profile, stem of the result, what makes Markdown of it.
NOTEBOOKS = (
    ("mini", "01_dataset_and_composite", _composite),
    ("mini", "02_attribute_extraction", _attributes),
    ("photos", "02_attribute_extraction_transfer", _transfer),
    ("mini", "03_training_granularity", _granularity),
    ("mini", "granularity_length", _longer_granularity),
    ("mini", "04_number_sorting", _sorting),
    ("mini", "sorting_length", _longer_sorting),
    ("mini", "05_digit_count", _digit_count),
    ("photos", "05_digit_count", _digit_count),
    ("mini", "06_ncm_curves", _curves),
    ("mini", "07_regression_and_levels", _objectives),
    ("photos", "07_regression_and_levels", _objectives),
    ("mini", "08_chain_of_thought", _chains),
    ("mini", "chain_length", _longer_chains),
    ("photos", "08_chain_of_thought", _chains),
    ("mini", "09_sota_comparison", _domains),
    ("mini", "12_cost_and_speed", _cost),
)
SPEEDS = (
    ("mini", "training_speed", _speed),
    ("mini", "ncm_cost", _ncm_cost),
    ("paper", "gpu_cost", _gpu),
    ("gpu24", "gpu_cost", _gpu),
)
