"""The generated part of README.md: every number in it is read from `figures/`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from realqa_utils import backbone, results

BEGIN, END = "<!-- generated: realqa readme -->", "<!-- end of generated part -->"


def render() -> str:
    """Markdown of the claims, the tables and the speeds that have been recorded."""
    figures = results.home() / "figures"
    parts = [_digit_count(figures / profile, profile) for profile in ("mini", "photos")]
    parts += [
        _composite(figures / "mini"),
        _attributes(figures / "mini"),
        _transfer(figures / "photos"),
        _granularity(figures / "mini"),
        _curves(figures / "mini"),
        _captions(),
        _speed(figures / "mini" / "training_speed.csv"),
        _ncm_cost(figures / "mini" / "ncm_cost.csv"),
    ]
    return "\n\n".join(part for part in parts if part)


def _digit_count(folder: Path, profile: str) -> str:
    path = folder / "05_digit_count.csv"
    if not path.exists():
        return ""
    table = pd.read_csv(path)
    table = table[table["metric"] == "srcc"]
    record = json.loads(path.with_suffix(".json").read_text())
    head = f"**Notebook 05 on `{profile}`**: SRCC [95 % interval] on held-out photographs. "
    head += f"{record['n_parsed']} of {record['n']} free-running answers could be read. "
    head += f"Interval: {record['interval']}."
    rows = ["| set | read as | M | SRCC | ceiling of rounding |", "|---|---|---|---|---|"]
    ceiling = table[table["model"] == "rounding alone"].set_index(["dataset", "digits"])["estimate"]
    for row in table[table["model"] != "rounding alone"].itertuples():
        limit = ceiling.get((row.dataset, row.digits))
        digits = "" if pd.isna(row.digits) else f"{row.digits:.0f}"
        rows.append(
            f"| {row.dataset} | {row.model} | {digits} | "
            f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}] | "
            f"{'' if limit is None else f'{limit:.3f}'} |"
        )
    claim = "Claim *M = 3 beats M = 1*, paired difference of SRCC:"
    judged = pd.read_csv(folder / "05_digit_count_verdicts.csv")
    names = judged["dataset"] + ", " + judged["model"]
    return f"{head}\n\n" + "\n".join(rows) + "\n\n" + _verdicts(claim, judged, names)


def _verdicts(claim: str, judged: pd.DataFrame, names: pd.Series) -> str:
    lines = [claim, ""]
    for name, row in zip(names, judged.itertuples(), strict=True):
        lines.append(
            f"- {name}: **{row.verdict}** ({row.estimate:+.3f}, {row.low:+.3f} to {row.high:+.3f})"
        )
    return "\n".join(lines)


def _cell(row: pd.Series, form: str = ".3f") -> str:
    """An estimate with its interval; N.A. where there is none."""
    if pd.isna(row["estimate"]):
        return "N.A."
    ends = f" [{row['low']:{form}}, {row['high']:{form}}]" if pd.notna(row["low"]) else ""
    return f"{row['estimate']:{form}}{ends}"


def _grid(table: pd.DataFrame, index: str, columns: str, first: str, form: str = ".3f") -> str:
    """Markdown of a tidy table: one row an `index`, one column a `columns`."""
    across = list(dict.fromkeys(table[columns]))
    rows = [f"| {first} | {' | '.join(map(str, across))} |", "|---" * (len(across) + 1) + "|"]
    for name in dict.fromkeys(table[index]):
        part = table[table[index] == name].set_index(columns)
        cells = [_cell(part.loc[column], form) if column in part.index else "" for column in across]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _attributes(folder: Path) -> str:
    path = folder / "02_attribute_extraction.csv"
    if not path.exists():
        return ""
    table = pd.read_csv(path).query("metric == 'srcc'")
    judged = pd.read_csv(folder / "02_attribute_extraction_verdicts.csv")
    head = (
        "**Notebook 02 on `mini`**: SRCC [95 % interval] of attribute codes on "
        f"{table['n'].iloc[0]} held-out photographs. N.A.: the form is not followed."
    )
    claim = "Claim *stage 1 beats the model as it comes*, difference of the average:"
    grid = _grid(table, "attribute", "model", "attribute")
    return f"{head}\n\n{grid}\n\n{_verdicts(claim, judged, judged['model'])}"


def _transfer(folder: Path) -> str:
    path = folder / "02_attribute_extraction_transfer.csv"
    if not path.exists():
        return ""
    table = pd.read_csv(path)
    head = (
        f"**Notebook 02 on `photos`**: SRCC with the MOS of {table['n'].iloc[0]} photographs of "
        "LIVE Challenge, of attributes that were learnt from generated scenes, and of "
        "a plain sharpness feature."
    )
    return f"{head}\n\n{_grid(table, 'attribute', 'model', 'attribute', '+.3f')}"


def _granularity(folder: Path) -> str:
    path = folder / "03_training_granularity.csv"
    if not path.exists():
        return ""
    table = pd.read_csv(path).query("attribute == 'average'")
    judged = pd.read_csv(folder / "03_training_granularity_verdicts.csv")
    table = table.assign(row=table["model"] + ", asked: " + table["asked"])
    head = "**Notebook 03 on `mini`**: mean SRCC and PLCC over the nine attributes."
    claim = "Claim *all granularities together are best*, paired difference of the mean SRCC:"
    grid = _grid(table, "row", "metric", "trained on")
    return f"{head}\n\n{grid}\n\n{_verdicts(claim, judged, judged['model'])}"


def _curves(folder: Path) -> str:
    path = folder / "06_ncm_curves.csv"
    if not path.exists():
        return ""
    table = pd.read_csv(path)
    table = table[table["step"] == table["step"].max()]
    judged = pd.read_csv(folder / "06_ncm_curves_verdicts.csv")
    foreseen = pd.read_csv(folder / "06_ncm_curves_foresight.csv")
    head = (
        f"**Notebook 06 on `mini`**: held-out values [95 % interval over trainings] after step "
        f"{table['step'].iloc[0]}."
    )
    chosen = table[table["metric"].isin(["ncm", "ncm_star", "digit_ce", "srcc_expected"])]
    claim = "Claims *NCM falls* and *NCM\\* falls*, in squared points, cross entropy alone:"
    question = (
        "Does a lower value foresee a higher SRCC of free-running scores? Rank correlation over "
        "trainings and checkpoints:"
    )
    return "\n\n".join(
        (
            head,
            _grid(chosen, "model", "metric", "trained with"),
            _verdicts(claim, judged, judged["metric"]),
            question,
            _grid(foreseen, "model", "scope", "lower is better", "+.2f"),
        )
    )


def _ncm_cost(path: Path) -> str:
    if not path.exists():
        return ""
    table = pd.read_csv(path)
    record = json.loads(path.with_suffix(".json").read_text())
    rows = ["| what | measure | median | range |", "|---|---|---|---|"]
    for row in table.itertuples():
        rows.append(
            f"| {row.model} | {row.metric} | {row.estimate:.3g} | {row.low:.3g} to {row.high:.3g} |"
        )
    head = f"**What listening to NCM costs** on {record['cpus']} CPU cores"
    return f"{head} (`realqa benchmark-ncm`).\n\n" + "\n".join(rows)


def _composite(folder: Path) -> str:
    path = folder / "01_dataset_and_composite.csv"
    if not path.exists():
        return ""
    table = pd.read_csv(path).query("metric == 'srcc'").set_index("model")
    names = [name for name in table.index.unique() if name != "single"]
    rows = ["| score from nine attributes | SRCC with the raters' mean |", "|---|---|"]
    for name in names:
        row = table.loc[name]
        rows.append(f"| {name} | {row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}] |")
    curation = pd.read_csv(folder / "01_dataset_and_composite_curation.csv").dropna(
        subset="estimate"
    )
    found = curation.pivot(index="defect", columns="metric", values="estimate")
    said = [
        f"{d.replace('_', ' ')} {r['precision']:.2f} / {r['recall']:.2f}"
        for d, r in found.iterrows()
    ]
    return (
        "**Notebook 01 on `mini`**: a composite of the true labels, on held-out photographs.\n\n"
        + "\n".join(rows)
        + f"\n\nCuration, precision / recall on defects drawn in: {', '.join(said)}."
    )


def _captions() -> str:
    record = json.loads((backbone.MINI_FOLDER / "record.json").read_text())
    rows = ["| attribute | accuracy | most frequent answer |", "|---|---|---|"]
    for row in record["caption_accuracy"]:
        rows.append(f"| {row['attribute']} | {row['accuracy']:.2f} | {row['chance']:.2f} |")
    head = (
        f"**The shipped mini backbone**: free-running captions of {record['held_out_scenes']} "
        "generated scenes that it never saw."
    )
    return f"{head}\n\n" + "\n".join(rows)


def _speed(path: Path) -> str:
    if not path.exists():
        return ""
    table = pd.read_csv(path).pivot(index="model", columns="metric", values="estimate")
    cpus = json.loads(path.with_suffix(".json").read_text())["cpus"]
    rows = ["| trained part | ours, samples/s | plain, samples/s | ratio |", "|---|---|---|---|"]
    for model, row in table.iterrows():
        rows.append(
            f"| {model} | {row['samples/s']:.0f} | {row['plain samples/s']:.0f} | "
            f"{row['ratio']:.1f} |"
        )
    head = f"**Training speed** on {cpus} CPU cores against a plain `Trainer`, both in one run"
    return f"{head} (`realqa benchmark`).\n\n" + "\n".join(rows)


def updated(text: str) -> str:
    """README text with its generated part made anew. Raises ValueError without the two marks."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md: the marks {BEGIN!r} and {END!r} are missing")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{rest.split(END, 1)[1]}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("realqa readme", description=__doc__)
    parser.parse_args(arguments)
    path = results.home() / "README.md"
    results.write_text(path, updated(path.read_text()))
