"""The scoreboard (notebook 11): the verdict on every claim of the paper, and what it cost.

Everything is read from `figures/<profile>/`, and what has not run is listed as such. How single
numbers compare with printed ones is in `comparison`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from realqa_utils.claims import comparison, paper
from realqa_utils.profiles import PROFILES, Profile, unknown
from realqa_utils.records import provenance, results

NOTEBOOK = "11_scoreboard"
NOT_RUN = "not run"
LONGER = ", longer"  # behind the name of a profile: what `realqa lengths` found
SINGLE = "* one training"  # what a star beside an interval says
#: Units of estimates; ranks have no unit, so the first two may share an axis.
DIFFERENCE, CORRELATION, SQUARED = "difference of SRCC", "rank correlation", "squared points"
#: Claim -> a short title, the unit of its estimate, the notebook that judges it.
CLAIMS = {
    "T1-stage1-beats-zero-shot": ("Stage 1 beats zero-shot", DIFFERENCE, "02"),
    "T2-mixed-granularity-best": ("Mixed granularity is best", DIFFERENCE, "03"),
    "T3-sorting-separates-models": ("Better sorters score better", DIFFERENCE, "04"),
    "T4-two-extra-digits": ("Two extra digits help", DIFFERENCE, "05"),
    "S46-next-token-vs-regression": ("Digits beat regression", DIFFERENCE, "07"),
    "F2-attributes-track-mos": ("MOS rises with attributes", CORRELATION, "08"),
    "S47-cot-beats-direct": ("Chain of thought helps", DIFFERENCE, "08"),
    "S47-cross-domain": ("It helps on unseen sets", DIFFERENCE, "09"),
    "S47-video-zero-shot": ("Images teach video", CORRELATION, "10"),
    "F5-ncm-falls": ("NCM falls", SQUARED, "06"),
    "F5-ncmstar-falls": ("NCM* falls", SQUARED, "06"),
}


# --- claims --------------------------------------------------------------------------------------


def profiles_with_claims(first: str, figures: Path) -> tuple[str, ...]:
    """`first`, then every other profile that has judged claims, but `smoke`, which is no evidence.

    `figures` holds the profiles' folders, here and below.
    """
    others = [name for name in PROFILES if name not in (first, "smoke")]
    return (first, *(name for name in others if (figures / name / "claims.csv").exists()))


def board(profiles: Sequence[str], figures: Path) -> pd.DataFrame:
    """All claims of the paper, a row a claim and profile: `not run` where nothing was recorded.

    Claims that were judged with longer trainings too have a further row each, whose profile ends
    with `LONGER`.

    Columns are those of `claims.csv`, and profile, title, unit. Raises ValueError, naming the
    file, for missing columns and for an unknown claim or verdict.
    """
    rows, recorded = [], {}
    for profile in profiles:
        recorded[profile] = _recorded(results.claims_file(figures / profile))
        recorded[profile + LONGER] = _recorded(results.claims_file(figures / profile, longer=True))
    for claim, (title, unit, notebook) in CLAIMS.items():
        empty = {"claim": claim, "notebook": notebook, "statement": paper.CLAIMS[claim],
                 "n": pd.NA, "seeds": "", "verdict": NOT_RUN}  # fmt: skip
        for profile, found in recorded.items():
            row = empty | found.get(claim, {})
            if claim in found or not profile.endswith(LONGER):
                rows.append(row | {"profile": profile, "title": title, "unit": unit})
    columns = [*results.CLAIM_COLUMNS, "profile", "title", "unit"]
    kinds = {"n": "Int64"} | dict.fromkeys(("estimate", "low", "high"), float)
    return pd.DataFrame(rows, columns=columns).astype(kinds)


def _recorded(path: Path) -> dict[str, dict]:
    """Claim -> its row of a `claims.csv`; empty where there is no such file."""
    if not path.exists():
        return {}
    table = pd.read_csv(path, dtype={"notebook": str, "seeds": str})
    if missing := [name for name in results.CLAIM_COLUMNS if name not in table]:
        raise ValueError(f"{path}: the table lacks the columns {', '.join(missing)}")
    for kind, known in (("claim", paper.CLAIMS), ("verdict", paper.VERDICTS)):
        for name in table[kind]:
            if name not in known:
                raise ValueError(f"{path}: {unknown(kind, name, known)}")
    return {row["claim"]: row for row in table.to_dict("records")}


def place(claim: str) -> str:
    """Where the paper makes a claim.

    >>> place("S46-next-token-vs-regression"), place("T1-stage1-beats-zero-shot")
    ('Sec. 4.6', 'Table 1')
    """
    kind, number = claim[0], claim.partition("-")[0][1:]
    return {"T": "Table ", "F": "Fig. ", "S": "Sec. "}[kind] + ".".join(number)


def measured(row: Mapping) -> str:
    """An estimate with its interval to the digits of its unit; empty where nothing was recorded.

    >>> measured({"estimate": 2.9327, "low": 2.895, "high": 2.9704, "unit": "squared points"})
    '+2.93 [+2.90, +2.97]'
    """
    if pd.isna(row["estimate"]):
        return ""
    return comparison.cell(row, "+.2f" if row["unit"] == SQUARED else "+.3f")


def is_single(row: Mapping) -> bool:
    """Whether a verdict rests on one training: then its interval says nothing of how much trainings
    differ."""
    return len(str(row["seeds"]).split()) == 1


def marked(row: Mapping) -> str:
    """What `measured` gives, with a star where the verdict rests on one training.

    >>> marked({"estimate": 0.1, "low": 0.0, "high": 0.2, "unit": "rank correlation", "seeds": "0"})
    '+0.100 [+0.000, +0.200] *'
    """
    return f"{measured(row)} *" if is_single(row) else measured(row)


def names(board: pd.DataFrame) -> list[str]:
    """The profiles of a board, each followed by what longer trainings gave on it."""
    found = list(dict.fromkeys(board["profile"]))
    return sorted(found, key=lambda name: found.index(name.removesuffix(LONGER)))


def shown(board: pd.DataFrame) -> pd.DataFrame:
    """The board for reading: a row a claim, and what each profile says of it."""
    said = [f"{row['verdict']} {marked(row)}".strip() for row in board.to_dict("records")]
    wide = board.assign(said=said).pivot(index="claim", columns="profile", values="said")
    wide = wide.loc[board["claim"].unique(), names(board)].fillna("")
    return wide.rename_axis(index=None, columns=None)


def summary(board: pd.DataFrame) -> str:
    """For each profile how many claims have which verdict, and which those are."""
    lines = []
    for profile, part in board.groupby("profile", sort=False):
        counts = part["verdict"].value_counts()
        known = paper.VERDICTS if profile.endswith(LONGER) else (*paper.VERDICTS, NOT_RUN)
        said = [f"{verdict} {counts.get(verdict, 0)}" for verdict in known]
        lines.append(f"{profile}: {', '.join(said)} of {len(part)} claims.")
        for verdict in ("fails", "undecided"):
            lines += [
                f"  {verdict}: {row['title']} ({place(row['claim'])}), {marked(row)}"
                for row in part[part["verdict"] == verdict].to_dict("records")
            ]
    if any(map(is_single, board.to_dict("records"))):
        lines.append(f"{SINGLE}: the interval says nothing of how trainings differ.")
    return "\n".join(lines)


# --- cost ----------------------------------------------------------------------------------------


def costs(profile: str, figures: Path) -> pd.DataFrame:
    """Time, peak memory and energy of each notebook, and of all, as the records of results tell.

    A notebook's clock starts with it and is read at every result, so its last reading counts.
    Core minutes are those by the processes at work; of all notebooks only these add up, as two may
    run beside each other. Energy, of the whole machine, is in a record only where the machine tells
    it. Raises ValueError for a damaged record.
    """
    records: dict[str, dict[str, dict]] = {}
    for path in sorted((figures / profile).glob("[0-9][0-9]_*.json")):
        if not path.stem.startswith(NOTEBOOK):  # it only reads files
            records.setdefault(path.stem[:2], {})[path.stem] = _record(path)
    columns = (
        "notebook", "minutes", "core minutes", "peak memory, MiB", "energy, kJ", "recorded",
    )  # fmt: skip
    rows = [_cost(min(found, key=len), list(found.values())) for found in records.values()]
    table = pd.DataFrame(rows, columns=columns).astype({"energy, kJ": float})
    complete = len(table) and table["energy, kJ"].notna().all()
    total = ("all", None, table["core minutes"].sum(), table["peak memory, MiB"].max(),
             table["energy, kJ"].sum() if complete else None, None)  # fmt: skip
    table = pd.concat([table, pd.DataFrame([total], columns=columns)])
    table = table.astype({"minutes": float}).round(1)
    table["energy, kJ"] = table["energy, kJ"].astype(object).fillna("not measured")
    return table.astype(object).fillna("").set_index("notebook")


def _record(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); right is a record of a result") from None


def _cost(stem: str, records: Sequence[Mapping]) -> tuple:
    last = max(records, key=lambda record: record["wall_seconds"])
    joules = last.get("energy_joules")
    memory = [record["peak_memory_mib"] or float("nan") for record in records]
    minutes, of_cores = last["wall_seconds"] / 60, provenance.core_seconds(last) / 60
    energy = None if joules is None else joules / 1000
    return stem, minutes, of_cores, max(memory), energy, last["date"][:10]


# --- result --------------------------------------------------------------------------------------


def save(
    profile: Profile,
    board: pd.DataFrame,
    tables: Mapping[int, pd.DataFrame],
    figure: Figure,
    figures: Path,
    watch: results.Stopwatch,
) -> str:
    """Write the claims of this profile, the tables beside the paper's, and the figure.

    Costs are not written: they are in the records already, and differ from run to run.
    """
    own = board[board["profile"] == profile.name]
    detail = own["statement"].str.extract(r"\[(.*)\]$")[0]
    own = own.assign(dataset=own["profile"], model=detail.fillna(""), metric=own["unit"])
    beside = pd.concat([part.assign(table=number) for number, part in tables.items()])
    folder = figures / profile.name
    read = [results.claims_file(folder), results.claims_file(folder, longer=True)]
    read += [folder / f"{name}.csv" for name in dict.fromkeys(comparison.SHOWN_BY.values())]
    facts = {
        "seeds": profile.seeds,
        "n": int((own["verdict"] != NOT_RUN).sum()),
        "n_parsed": None,
        "interval": "as the notebook of each claim says in its record",
        "data_hashes": {path.name: results.file_hash(path) for path in read if path.exists()},
        "model_hash": None,
        "started": watch,
        "notes": "n counts the claims with a result; dataset is the profile of a claim",
    }
    kept = [*results.TABLE_COLUMNS, "claim", "notebook", "statement", "verdict"]
    path = results.save(NOTEBOOK, profile, own[kept], figures={"": figure}, **facts)
    results.save(f"{NOTEBOOK}_tables", profile, beside, **facts)
    return path.parent.name
