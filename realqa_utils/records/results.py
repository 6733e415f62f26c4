"""The only writer of `figures/` (tables and pictures people read) and `runs/` (everything else).

Every write is atomic: a reader, or a run that is cut off, never meets half a file. Both folders
lie in the root: the folder REALQA_ROOT, else the checkout, else the working folder.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from filelock import FileLock

from realqa_utils import parallel
from realqa_utils.claims.paper import CLAIMS, VERDICTS
from realqa_utils.claims.paper import verdict as decide
from realqa_utils.profiles import Profile, get_profile, unknown
from realqa_utils.records.provenance import Stopwatch, file_hash, home, provenance, source_hash

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE_COLUMNS = ("dataset", "model", "metric", "estimate", "low", "high", "n", "seeds")
CLAIM_COLUMNS = (
    "claim", "notebook", "statement", "estimate", "low", "high", "n", "seeds", "verdict",
)  # fmt: skip
#: What a claim needs of a row that judges it.
FOUND = ["estimate", "low", "high", "n"]
Seeds = int | Sequence[int]

__all__ = [
    "CLAIM_COLUMNS", "FOUND", "TABLE_COLUMNS", "Stopwatch", "claims", "claims_file",
    "figure_dir", "file_hash", "home", "once", "provenance", "record_claim", "root", "run_dir",
    "save", "save_figure", "save_parts", "source_hash", "write_atomically", "write_bytes",
    "write_folder", "write_json", "write_table", "write_text",
]  # fmt: skip


# --- where ---------------------------------------------------------------------------------------


def root() -> Path:
    """The folder that holds `figures/` and `runs/`."""
    return Path(os.environ.get("REALQA_ROOT") or home()).resolve()


def figure_dir(profile: str | Profile) -> Path:
    """`figures/<profile>`, made if missing. Raises ValueError for an unknown profile."""
    return _made(root() / "figures" / _name(profile))


def run_dir(profile: str | Profile, *parts: str) -> Path:
    """`runs/<profile>/<parts>`, made if missing. Raises ValueError for an unknown profile."""
    return _made(root().joinpath("runs", _name(profile), *parts))


def _name(profile: str | Profile) -> str:
    return profile.name if isinstance(profile, Profile) else get_profile(profile).name


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- atomic files --------------------------------------------------------------------------------


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Call `write` on a new path beside `path`, then move the result there in one step.

    For whatever a library saves itself: `write_atomically(p, lambda t: torch.save(state, t))`.
    """
    path = Path(path)
    _made(path.parent)
    # The suffix stays last: numpy and pillow choose or append by it.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_folder(path: str | Path, fill: Callable[[Path], object]) -> Path:
    """Call `fill` on a new folder beside `path`, then move it there in one step."""
    path = Path(path)
    _made(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        fill(temporary)
        if path.exists():  # a folder cannot be replaced while it holds files
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def once(path: str | Path, make: Callable[[], object]) -> Path:
    """Call `make`, which writes `path`, unless that is there already.

    Of several processes that want the same thing one makes it, and the others wait, or do other
    tasks first (`parallel.turn`). The system frees the lock when its holder ends, however it ends.
    """
    path = Path(path)
    if not path.exists():
        _made(path.parent)
        with parallel.turn(FileLock(path.with_name(f".{path.name}.lock"))):
            if not path.exists():
                make()
    return path


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write `content` to `path` atomically."""
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` atomically: UTF-8, line ends as given."""
    return write_bytes(path, text.encode())


def write_json(path: str | Path, content: object) -> Path:
    """Write `content` as indented JSON. Raises ValueError for NaN and infinity: JSON has none."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    return write_text(path, text + "\n")


def write_table(path: str | Path, table: pd.DataFrame) -> Path:
    """Write `table` as CSV without its index; floats have 6 significant digits."""
    return write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write `figure` as PNG at 150 dpi. The same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=150,
        bbox_inches="tight",
        metadata={"Software": None},  # else the version of matplotlib is in the bytes
        pil_kwargs={"optimize": True},
    )
    return write_bytes(path, buffer.getvalue())


def _plain(value: object) -> object:
    """numpy scalars and arrays, and paths, as JSON knows them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"no JSON form for {type(value).__name__}: {value!r}")


# --- results -------------------------------------------------------------------------------------


def save(
    stem: str,
    profile: str | Profile,
    table: pd.DataFrame,
    *,
    seeds: Seeds,
    n: int,
    n_parsed: int | None,
    interval: str,
    data_hashes: Mapping[str, str],
    model_hash: str | None,
    started: Stopwatch | float,
    figures: Mapping[str, Figure] | None = None,
    notes: str = "",
) -> Path:
    """Write one result: `figures/<profile>/<stem>.csv`, the JSON about it, and its figures.

    `table` is tidy, one estimate a row, with at least `TABLE_COLUMNS`. `n` answers were wanted and
    `n_parsed` of them could be read (None: nothing was parsed). `interval` names the method, e.g.
    "95 % bootstrap over test images, pooled over seeds". `started` is a Stopwatch or a
    `time.perf_counter()` stamp. `figures` maps a name to a Figure: `<stem>_<name>.png`, and
    `<stem>.png` for the name "". Returns the path of the CSV.

    Raises ValueError for missing columns, a row whose low exceeds its high, or a bad stem.
    """
    if not stem.replace("_", "").isalnum():
        raise ValueError(f"stem {stem!r}: letters, digits and _ only, like 05_digit_count")
    table = _checked(table, stem)
    folder = figure_dir(profile)
    watch = started if isinstance(started, Stopwatch) else Stopwatch(started, {})
    pictures = {}
    for name, figure in (figures or {}).items():
        pictures[name] = save_figure(figure, folder / f"{stem}_{name}.png".replace("_.", ".")).name
    record = {
        "profile": _name(profile),
        "seeds": list(np.atleast_1d(seeds)),
        "n": n,
        "n_parsed": n_parsed,
        "interval": interval,
        "model_hash": model_hash,
        "data_hashes": dict(data_hashes),
        "figures": list(pictures.values()),
        "notes": notes,
        "wall_seconds": round(watch.seconds, 2),
        "core_seconds": round(watch.core_seconds, 2),
        "energy_joules": watch.joules,  # of the whole machine; null where it does not tell
    }
    write_json(folder / f"{stem}.json", record | provenance())
    return write_table(folder / f"{stem}.csv", table)


def save_parts(
    stem: str,
    profile: str | Profile,
    parts: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure] | None = None,
    **facts: object,
) -> str:
    """`save` several tables as `<stem>_<part>`, the figures with the part ""; the folder's name."""
    for part, table in parts.items():
        drawn = None if part else figures
        path = save(f"{stem}_{part}" if part else stem, profile, table, figures=drawn, **facts)
    return path.parent.name


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """`table` with the contract's columns first, whole counts and seeds as text."""
    missing = [column for column in TABLE_COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(f"{where}: the table lacks the columns {', '.join(missing)}")
    for position, (low, high) in enumerate(zip(table["low"], table["high"], strict=True)):
        _check_interval(low, high, f"{where}: row {position}")
    added = [column for column in table.columns if column not in TABLE_COLUMNS]
    return table[[*TABLE_COLUMNS, *added]].assign(
        n=table["n"].astype("Int64"), seeds=table["seeds"].map(_seeds_text)
    )


def _check_interval(low: float, high: float, where: str) -> None:
    if low > high:
        raise ValueError(f"{where}: low {low:g} exceeds high {high:g}")


def _seeds_text(seeds: Seeds | str) -> str:
    """Seeds as they stand in a CSV cell: `0 1 2`."""
    return seeds if isinstance(seeds, str) else " ".join(map(str, np.atleast_1d(seeds)))


# --- claims --------------------------------------------------------------------------------------


def record_claim(
    profile: str | Profile,
    claim: str,
    *,
    notebook: str,
    estimate: float,
    low: float,
    high: float,
    n: int,
    seeds: Seeds,
    measured: str = "",
    verdict: str | None = None,
    longer: bool = False,
) -> str:
    """Put what was found about `claim` into `figures/<profile>/claims.csv`: one row per claim.

    What `longer` trainings gave than those of the notebook stands in `claims_longer.csv`.

    `estimate` is the difference that the claim says is positive, [`low`, `high`] its interval.
    `measured` says of what, and stands in brackets behind the paper's statement; `verdict` follows
    from the interval unless given. Returns the verdict. Notebooks may run side by side: no row is
    lost.

    Raises ValueError for an unknown claim or verdict, and for low above high.
    """
    if claim not in CLAIMS:
        raise ValueError(unknown("claim", claim, CLAIMS))
    _check_interval(low, high, claim)
    verdict = verdict or decide(low, high)
    if verdict not in VERDICTS:
        raise ValueError(unknown("verdict", verdict, VERDICTS))
    statement = f"{CLAIMS[claim]} [{measured}]" if measured else CLAIMS[claim]
    values = (claim, notebook, statement, estimate, low, high, n,
              _seeds_text(seeds), verdict)  # fmt: skip
    row = pd.DataFrame([values], columns=CLAIM_COLUMNS)
    with FileLock(run_dir(profile) / "claims.lock"):
        known = claims(profile, longer)
        table = pd.concat([known[known["claim"] != claim], row]) if len(known) else row
        write_table(claims_file(figure_dir(profile), longer), table.sort_values("claim"))
    return verdict


def claims_file(folder: Path, longer: bool = False) -> Path:
    """Where the claims of the profile stand whose figures are in `folder`."""
    return folder / ("claims_longer.csv" if longer else "claims.csv")


def claims(profile: str | Profile, longer: bool = False) -> pd.DataFrame:
    """The claims recorded so far for `profile`: a table with `CLAIM_COLUMNS`, perhaps empty."""
    path = claims_file(figure_dir(profile), longer)
    if not path.exists():
        return pd.DataFrame(columns=CLAIM_COLUMNS)
    return pd.read_csv(path, dtype={"notebook": str, "seeds": str})
