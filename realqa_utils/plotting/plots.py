"""Every figure. Functions take tidy tables and give a matplotlib Figure; none writes a file."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import display
from matplotlib.figure import Figure
from PIL import Image

from realqa_utils.forms import taxonomy

INK, MUTED, ACCENT, SECOND, THIRD = "#1f2933", "#9aa5b1", "#d1495b", "#00798c", "#edae49"
MODELS = {"greedy": ACCENT, "expected": SECOND, "rounding alone": MUTED}


def use_style() -> None:
    """One look for all figures and tables; call it once at the top of a notebook."""
    pd.set_option("display.max_colwidth", 240)  # names and claims in full
    sns.set_theme(style="whitegrid", context="notebook")
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "axes.edgecolor": MUTED,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titleweight": "bold",
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "grid.color": "#e4e7eb",
            "text.color": INK,
            "axes.labelcolor": INK,
        }
    )


def as_photograph(figure: Figure) -> display.Image:
    """A sheet of photographs as JPEG, for showing it in a notebook: much smaller than a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", bbox_inches="tight", pil_kwargs={"quality": 88})
    plt.close(figure)
    return display.Image(buffer.getvalue(), format="jpeg")


def photo_with_scores(image: Image.Image, reading, truth: float | None = None) -> Figure:
    """A photograph beside the distribution over all its scores.

    `reading` is a `digit_tree.Reading`; `truth`, if known, is on the 0..10 scale.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6), width_ratios=(1, 2.2))
    left.imshow(image)
    left.axis("off")
    tenths = np.floor(reading.values * 10 + 1e-6).astype(int)
    height = np.bincount(tenths, reading.probabilities, minlength=100)
    right.bar(
        np.arange(100) / 10, height, width=0.1, align="edge", color=SECOND, alpha=0.85, linewidth=0
    )
    mean, sd = reading.expected, reading.sd
    right.axvline(mean, color=INK, lw=1.6, label=f"mean {mean:.2f} ± {sd:.2f}")
    right.axvline(float(reading.text), color=ACCENT, lw=1.6, label=f"greedy digits {reading.text}")
    if truth is not None:
        right.axvline(truth, color=THIRD, lw=2.2, ls="--", label=f"raters' mean {truth:.2f}")
    right.set(xlim=(0, 10), xlabel="score", ylabel="probability per 0.1")
    right.set_xticks(range(11))
    right.legend(frameon=False, loc="upper left")
    right.set_title("What the model says of this photograph")
    figure.tight_layout()
    return figure


def first_digits(reading) -> Figure:
    """The digit tree of one photograph: probability of the first digit, and of the second."""
    grid = np.zeros((10, 10))
    for value, chance in zip(reading.values, reading.probabilities, strict=True):
        tenths = min(int(value * 10 + 1e-6), 99)
        grid[tenths // 10, tenths % 10] += chance
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.4), width_ratios=(1, 1.3))
    axes[0].bar(range(10), grid.sum(1), color=SECOND)
    axes[0].set(xlabel="first digit", ylabel="probability", xticks=range(10))
    axes[0].set_title("The units")
    sns.heatmap(grid, ax=axes[1], cmap="mako_r", cbar_kws={"label": "probability"})
    axes[1].set(xlabel="second digit", ylabel="first digit")
    axes[1].set_title("The units and the tenths")
    figure.tight_layout()
    return figure


def contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Figure:
    """Photographs in rows of `columns`, a short caption under each."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.55 * columns, 1.8 * rows))
    for axis in np.atleast_1d(axes).flat:
        axis.axis("off")
    for axis, image, caption in zip(np.atleast_1d(axes).flat, images, captions, strict=False):
        axis.imshow(image)
        axis.set_title(caption, fontsize=8, weight="normal", loc="center", pad=3)
    figure.tight_layout(pad=0.4)
    return figure


def tier_sheet(rows: dict[str, Sequence[Image.Image]]) -> Figure:
    """One attribute a row, one tier a column: the same scene with only that attribute changed."""
    columns = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.75 * columns, 1.95 * len(rows)))
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        attribute = taxonomy.BY_NAME[name]
        for axis in line:
            axis.axis("off")
        for axis, image, tier in zip(line, images, attribute.tiers, strict=False):
            axis.imshow(image)
            words = tier.words.split(" (")[0]
            axis.set_title(f"{words} [{tier.code}]", fontsize=8, weight="normal", loc="center")
        line[0].text(
            -0.08, 0.5, attribute.title, transform=line[0].transAxes, rotation=90,
            ha="right", va="center", fontsize=9, weight="bold",
        )  # fmt: skip
    figure.tight_layout(pad=0.4)
    return figure


def digit_count(table: pd.DataFrame, metric: str = "srcc") -> Figure:
    """Table 4 as curves: `metric` against M per data set, greedy and expected, with the ceiling.

    `table` has the columns dataset, model, digits, metric, estimate, low, high.
    """
    table = table[table["metric"] == metric]
    names = list(dict.fromkeys(table["dataset"]))
    figure, axes = plt.subplots(
        1, len(names), figsize=(4.8 * len(names), 3.9), sharex=True, sharey=True, squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        part = table[(table["dataset"] == name) & table["digits"].notna()]
        for (model, rows), shift in zip(part.groupby("model"), (-0.06, 0.06, 0.0), strict=False):
            _curve(axis, rows.sort_values("digits"), model, shift)
        for row in table[(table["dataset"] == name) & table["digits"].isna()].itertuples():
            axis.axhline(row.estimate, color=THIRD, lw=1.4, ls=":", label=row.model)
        axis.set(xlabel="digits M", ylabel=metric.upper(), xticks=sorted(part["digits"].unique()))
        axis.set_title(name)
    handles = {h.get_label(): h for a in axes[0] for h in a.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5,
                  frameon=False)  # fmt: skip
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


def _curve(axis, rows: pd.DataFrame, model: str, shift: float) -> None:
    colour = MODELS.get(model, INK)
    x, y = rows["digits"] + shift, rows["estimate"]
    if model == "rounding alone":
        axis.plot(rows["digits"], y, color=colour, lw=1.6, ls="--", marker="_", label=model)
        return
    error = np.abs(rows[["low", "high"]].to_numpy().T - y.to_numpy())
    axis.errorbar(x, y, error, color=colour, lw=1.8, marker="o", ms=5, capsize=3, label=model)


def agreement(frames: dict[str, pd.DataFrame], column: str = "expected") -> Figure:
    """Predicted against rated scores, 0..10, one panel a data set; columns target and `column`."""
    figure, axes = plt.subplots(1, len(frames), figsize=(4.2 * len(frames), 4), squeeze=False)
    for axis, (name, frame) in zip(axes[0], frames.items(), strict=True):
        axis.plot([0, 10], [0, 10], color=MUTED, lw=1)
        axis.scatter(frame["target"], frame[column], s=12, alpha=0.5, color=SECOND, linewidth=0)
        axis.set(xlim=(0, 10), ylim=(0, 10), xlabel="raters' mean", ylabel=f"model, {column}")
        axis.set_aspect("equal")
        axis.set_title(name)
    figure.tight_layout()
    return figure


def attribute_profile(table: pd.DataFrame, metric: str = "srcc") -> Figure:
    """Table 1 as dots: `metric` of every model per attribute, with intervals; N.A. is left out.

    `table` has the columns attribute, model, metric, estimate, low, high.
    """
    table = table[table["metric"] == metric]
    names, models = list(dict.fromkeys(table["attribute"])), list(dict.fromkeys(table["model"]))
    figure, axis = plt.subplots(figsize=(9.6, 0.5 * len(names) + 1.2))
    colours = sns.color_palette([ACCENT, SECOND, THIRD, MUTED, INK], len(models))
    for index, model in enumerate(models):
        rows = table[table["model"] == model].set_index("attribute").loc[names]
        known = model if rows["estimate"].notna().any() else f"{model}: N.A."
        y = np.arange(len(names)) + 0.16 * (index - (len(models) - 1) / 2)
        error = np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy())
        axis.errorbar(
            rows["estimate"], y, xerr=np.nan_to_num(error), color=colours[index], fmt="o", ms=5,
            capsize=2, lw=1.4, label=known,
        )  # fmt: skip
    titles = [taxonomy.BY_NAME[n].title if n in taxonomy.BY_NAME else n.title() for n in names]
    axis.set_yticks(range(len(names)), titles)
    axis.axvline(0, color=MUTED, lw=1)
    axis.set(xlabel=f"{metric.upper()} of codes, 95 % interval", ylim=(len(names) - 0.4, -0.6))
    columns = 4 if len("".join(models)) < 80 else 3  # what fits into the width
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    lines = -(-len(models) // columns)
    figure.tight_layout(rect=(0, 0.27 * lines / figure.get_figheight(), 1, 1))
    return figure


def confusions(shares: dict[str, pd.DataFrame]) -> Figure:
    """One panel an attribute: what is answered (columns) for each true code (rows), in shares."""
    figure, axes = plt.subplots(3, 3, figsize=(9.6, 8.4))
    colours = sns.light_palette(SECOND, as_cmap=True)
    for axis, name in zip(axes.flat, taxonomy.SCORED, strict=True):
        attribute = taxonomy.BY_NAME[name]
        axis.set_title(attribute.title)
        if name not in shares:
            axis.text(0.5, 0.5, "no answers", ha="center", color=MUTED, transform=axis.transAxes)
            axis.axis("off")
            continue
        codes = list(attribute.codes)
        table = shares[name].reindex(columns=codes, fill_value=0).reindex(codes)
        sns.heatmap(
            table, ax=axis, vmin=0, vmax=1, cmap=colours, annot=table.size <= 9, fmt=".2f",
            cbar=False, linewidths=0.4, annot_kws={"size": 8}, xticklabels=codes, yticklabels=codes,
        )  # fmt: skip
        axis.set(xlabel="answered", ylabel="true")
        axis.tick_params(rotation=0, labelsize=9)
        axis.grid(visible=False)
    figure.tight_layout()
    return figure


def cards(images: Sequence[Image.Image], texts: Sequence[Sequence[tuple[str, str]]]) -> Figure:
    """Fig. 1a as cards: photographs beside their lines, each (heading, value) or ("", reason)."""
    rows = -(-len(images) // 2)
    figure, axes = plt.subplots(
        rows, 4, figsize=(12.4, 2.8 * rows), width_ratios=(2.7, 3.4) * 2, squeeze=False
    )
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, wspace=0.06, hspace=0.08)
    for axis in axes.flat:
        axis.axis("off")
    pairs = axes.reshape(-1, 2)[: len(images)]
    for (left, right), image, text in zip(pairs, images, texts, strict=True):
        left.imshow(image)
        left.set_anchor("N")
        _card(right, text)
    return figure


def _card(axis, text: Sequence[tuple[str, str]], width: int = 48) -> None:
    """`width` characters a line; a value too long to stand beside its heading goes below it."""
    lines: list[tuple[str, str]] = []
    for heading, value in text:
        beside = heading and len(value) <= width // 2
        lines += [(heading, value if beside else "")] if heading else []
        lines += [("", part) for part in textwrap.wrap(value, width)] if not beside else []
    for number, (heading, value) in enumerate(lines):
        y = 1 - (number + 0.5) / max(14, len(lines))
        x, style = (0.42, {"weight": "bold"}) if heading else (0.03, {"style": "italic"})
        axis.text(0, y, heading, fontsize=9, color=MUTED, va="center")
        axis.text(x, y, value, fontsize=9, color=INK, va="center", **style)


def rows_with_intervals(table: pd.DataFrame, label: str, value: str, title: str = "") -> Figure:
    """A forest: one row of `table` a line, its estimate and interval; columns low, high, estimate.

    `label` names the column of the line's text, `value` what is on the axis.
    """
    figure, axis = plt.subplots(figsize=(8.4, 0.5 * len(table) + 1.1))
    y = np.arange(len(table))
    error = np.abs(table[["low", "high"]].to_numpy().T - table["estimate"].to_numpy())
    axis.errorbar(
        table["estimate"], y, xerr=np.nan_to_num(error), fmt="o", color=SECOND, capsize=3, lw=1.8
    )
    axis.set_yticks(y, table[label])
    axis.set(xlabel=value, title=title, ylim=(len(table) - 0.4, -0.6))
    figure.tight_layout()
    return figure


def label_shares(shares: dict[str, pd.Series]) -> Figure:
    """How often each label (score, tier index) occurs, one panel an attribute."""
    figure, axes = plt.subplots(3, 3, figsize=(9.6, 6.8))
    for axis, (name, share) in zip(axes.flat, shares.items(), strict=True):
        attribute = taxonomy.BY_NAME[name]
        labels = range(len(attribute.tiers)) if attribute.tiers else attribute.codes
        axis.bar(share.index, share, color=SECOND, width=0.8)
        axis.set_title(attribute.title)
        axis.set_xticks(labels, [_short(t.words) for t in attribute.tiers] or labels)
        axis.tick_params(axis="x", labelsize=7.5)
        axis.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        axis.grid(axis="x", visible=False)
    figure.tight_layout()
    return figure


def _short(words: str) -> str:
    """The words of a tier, narrow enough for five side by side."""
    return words.split(" (")[0].replace(" ", "\n").replace("rexposed", "r-\nexposed")


def granularity(table: pd.DataFrame) -> Figure:
    """Table 2 as a forest: mean SRCC over the attributes by what was trained on and asked."""
    rows = table[(table["attribute"] == "average") & (table["metric"] == "srcc")]
    several = rows["model"].map(rows["model"].value_counts()) > 1
    label = rows["model"].where(~several, rows["model"] + "\nasked: " + rows["asked"])
    return rows_with_intervals(rows.assign(row=label), "row", "mean SRCC, 95 % interval")
