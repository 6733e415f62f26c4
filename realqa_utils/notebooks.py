"""Running the notebooks through papermill, and keeping the committed copies fresh."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import zmq
from nbformat import NotebookNode
from traitlets.config import Config

from realqa_utils import results
from realqa_utils.parameters import NotebookError, check_parameters, defaults, read
from realqa_utils.profiles import get_profile, unknown

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_KEYS = ("file_extension", "mimetype", "name", "pygments_lexer")


def find(only: Sequence[str] | None = None, folder: Path | None = None) -> list[Path]:
    """The notebooks `NN_*.ipynb` in order; `only` picks by number or name ("5", "05", "05_name").

    Raises NotebookError when there is none, or none of a name in `only`.
    """
    folder = folder or results.home() / "notebooks"
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise NotebookError(f"no notebooks NN_*.ipynb in {folder}")
    if not only:
        return paths
    picked = set()
    for wanted in only:
        match = [path for path in paths if wanted.zfill(2) in (path.stem, path.stem[:2])]
        if not match:
            raise NotebookError(unknown("notebook", wanted, [path.stem for path in paths]))
        picked.update(match)
    return sorted(picked)


# --- running -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """One notebook's run; `error` is empty when it went through."""

    path: Path  # the notebook
    executed: Path  # its executed copy, partial after a failure
    seconds: float
    error: str = ""


def run(path: Path, out: Path, parameters: Mapping[str, object], progress: bool = True) -> Path:
    """Execute `path` with `parameters`, in its own folder, into `out`, which is returned.

    Parameters equal to their defaults are not injected, so such a copy has the cells of the
    original. Raises NotebookError for bad parameters, and for a failing cell: then `out` holds
    what ran until there.
    """
    import papermill

    injected = check_parameters(path, parameters)
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel, not a user's
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            path,
            out,
            injected,
            kernel_name=KERNEL["name"],
            language=KERNEL["language"],
            config=_kernel_config(),
            cwd=path.parent,
            progress_bar=_progress(path) if progress else False,
            coalesce_streams=True,
        )
    except papermill.PapermillExecutionError as error:
        what = f"cell [{error.exec_count}] {error.ename}: {error.evalue}"
        raise NotebookError(f"{path.name}: {what} (partial notebook: {out})") from None
    except RuntimeError as error:  # the kernel died or never started; often memory
        raise NotebookError(f"{path.name}: {error} (partial notebook: {out})") from None
    return out


def _kernel_config() -> Config:
    """Encrypt the traffic with the kernel where possible: else any user of the machine may read it,
    and the kernel prints a warning that says so."""
    policy = "auto" if zmq.has("curve") else "disabled"
    return Config({"KernelManager": {"transport_encryption": policy}})


def _progress(path: Path) -> dict[str, object]:
    """tqdm's arguments: one line per notebook; seldom redrawn where the output is a log."""
    return {
        "desc": path.stem,
        "bar_format": "{desc:<26} cell {n_fmt}/{total_fmt}  {elapsed}",
        "mininterval": 0.1 if sys.stderr.isatty() else 60,
    }


def reproduce(
    profile: str,
    only: Sequence[str] | None = None,
    parameters: Mapping[str, object] | None = None,
    folder: Path | None = None,
) -> int:
    """Run the notebooks on `profile` into `runs/<profile>/notebooks/` and print a summary.

    A failing notebook does not stop the others. Returns 1 if any failed, else 0. Raises ValueError
    before anything runs for an unknown profile, notebook or parameter, or missing photographs.
    """
    get_profile(profile)
    outcomes = _run_all(find(only, folder), profile, parameters or {})
    print(summary(outcomes))
    return int(any(outcome.error for outcome in outcomes))


def _run_all(
    paths: Sequence[Path], profile: str, parameters: Mapping[str, object]
) -> list[Outcome]:
    if get_profile(profile).data == "real":
        _find_photographs(profile)
    parameters = {"profile": profile, **parameters}
    for path in paths:
        check_parameters(path, parameters)
    folder = results.run_dir(profile, "notebooks")
    return [_outcome(path, folder / path.name, parameters) for path in paths]


def _outcome(path: Path, out: Path, parameters: Mapping[str, object]) -> Outcome:
    started, error = time.perf_counter(), ""
    try:
        run(path, out, parameters)
    except NotebookError as failure:
        error = str(failure)
    return Outcome(path, out, time.perf_counter() - started, error)


def _find_photographs(profile: str) -> None:
    """Make REALQA_DATA absolute: a notebook runs in another folder. Raises NotebookError."""
    given = os.environ.get("REALQA_DATA", "")
    if not given or not Path(given).expanduser().is_dir():
        state = f"{given} is no folder" if given else "it is not set"
        raise NotebookError(
            f"profile {profile} needs photographs: set REALQA_DATA to their folder ({state})"
        )
    os.environ["REALQA_DATA"] = str(Path(given).expanduser().resolve())


def summary(outcomes: Sequence[Outcome]) -> str:
    """Notebook, seconds and status, one a line."""
    rows = [("notebook", "seconds", "status")]
    for outcome in outcomes:
        status = f"failed: {' '.join(outcome.error.split())}" if outcome.error else "ok"
        rows.append((outcome.path.stem, f"{outcome.seconds:.1f}", status))
    return "\n".join(f"{name:<26} {seconds:>8}  {status}" for name, seconds, status in rows)


# --- what is committed ---------------------------------------------------------------------------


def code_hash(notebook: NotebookNode) -> str:
    """SHA-256 of the sources of the code cells, in order."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def why_stale(path: Path) -> str:
    """Why the committed outputs of a notebook are not those of its code; empty when they are."""
    notebook = read(path)
    recorded = notebook.metadata.get("realqa", {}).get("code_hash")
    code = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    counts = [cell.execution_count for cell in code]
    if recorded is None:
        return "was never executed by `make notebooks`"
    if recorded != code_hash(notebook):
        return "its code has changed since it was executed: run `make notebooks`"
    if counts != list(range(1, len(counts) + 1)):
        return f"its execution counts are {counts}, not 1..{len(counts)}"
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        return "a cell ends in an error"
    return ""


def refresh(only: Sequence[str] | None = None, folder: Path | None = None) -> int:
    """Execute the notebooks on `mini` and write the executed copies over the committed ones.

    A notebook that fails keeps its old copy. Returns 1 if any failed, else 0. Raises NotebookError
    when a notebook's default profile is not `mini`: its copy would need an injected cell.
    """
    paths = find(only, folder)
    for path in paths:
        if defaults(path).get("profile") != "mini":
            raise NotebookError(f"{path.name}: the parameters cell must say profile = 'mini'")
    outcomes = _run_all(paths, "mini", {})
    for outcome in outcomes:
        if not outcome.error:
            notebook = portable(read(outcome.executed))
            results.write_text(outcome.path, nbformat.writes(notebook) + "\n")
    print(summary(outcomes))
    return int(any(outcome.error for outcome in outcomes))


def portable(notebook: NotebookNode) -> NotebookNode:
    """`notebook` without what differs by machine or moment (papermill's metadata, timings, paths),
    and with the hash of its code."""
    language = notebook.metadata.get("language_info", {})
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": KERNEL,
            "language_info": {key: language[key] for key in LANGUAGE_KEYS if key in language},
            "realqa": {"code_hash": code_hash(notebook)},
        }
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = _without_paths(cell.outputs)
    return notebook


def _without_paths(content: object) -> object:
    """Absolute paths of this machine made relative: to the root, the environment, the home."""
    if isinstance(content, dict):
        return nbformat.from_dict(
            {
                key: value if str(key).startswith("image/") else _without_paths(value)
                for key, value in content.items()
            }
        )
    if isinstance(content, list):
        return [_without_paths(item) for item in content]
    return _shortened(content) if isinstance(content, str) else content


def _shortened(text: str) -> str:
    # Bounded: an open \S* takes quadratic time on a long text without blanks.
    text = re.sub(r"/\S{0,200}ipykernel_\d+/\d+\.py", "<cell>", text)
    places = {str(results.root()): ".", str(results.home()): ".", sys.prefix: "<environment>",
              str(Path.home()): "~"}  # fmt: skip
    for place in sorted(places, key=len, reverse=True):
        if place != "/":
            text = re.sub(rf"{re.escape(place)}(?![\w.-])", places[place], text)
    return text
