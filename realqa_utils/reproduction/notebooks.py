"""The notebooks: found, run one by one or as a graph, and written back as what is committed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from realqa_utils.profiles import PROFILES, get_profile, unknown
from realqa_utils.records import results
from realqa_utils.reproduction import engine, graph, progress
from realqa_utils.reproduction.parameters import (
    NotebookError,
    cells,
    check_parameters,
    defaults,
    read,
)

KERNEL = "python3"


def find(only: Sequence[str] | None = None, folder: Path | None = None) -> list[Path]:
    """The notebooks `NN_*.ipynb` in order; `only` picks by number or name ("5", "05", "05_name").

    Raises NotebookError when there is none, or none of a name in `only`.
    """
    folder = folder or results.home() / "notebooks"
    paths = sorted(folder.glob(graph.PATTERN))
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


def run(
    path: Path,
    out: Path,
    parameters: Mapping[str, object],
    tell: Callable[[int, int], object] = lambda cell, cells: None,
) -> Path:
    """Execute `path` with `parameters`, in its own folder, into `out`, which is returned.

    Parameters equal to their defaults are not injected, so such a copy has the cells of the
    original. `tell` is called with the number of a code cell, from 1, and of all cells, as it
    begins. Raises NotebookError for bad parameters, and for a failing cell: then `out` holds what
    ran until there.
    """
    import papermill

    injected = check_parameters(path, parameters)
    total = len(cells(path)) + bool(injected)
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel, not a user's
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            path,
            out,
            injected,
            kernel_name=KERNEL,
            language="python",
            config=_kernel_config(),
            cwd=path.parent,
            progress_bar=False,
            coalesce_streams=True,
            on_cell_start=lambda cell, cell_index: tell(cell_index + 1, total),
        )
    except papermill.PapermillExecutionError as error:
        what = f"cell [{error.exec_count}] {error.ename}: {error.evalue}"
        raise NotebookError(f"{path.name}: {what} (partial notebook: {out})") from None
    except RuntimeError as error:  # the kernel died or never started; often memory
        raise NotebookError(f"{path.name}: {error} (partial notebook: {out})") from None
    return out


def _kernel_config() -> object:
    """Encrypt the traffic with the kernel where possible: else any user of the machine may read it,
    and the kernel prints a warning that says so."""
    import zmq
    from traitlets.config import Config

    policy = "auto" if zmq.has("curve") else "disabled"
    return Config({"KernelManager": {"transport_encryption": policy}})


# --- the graph of them ---------------------------------------------------------------------------


def reproduce(
    profile: str,
    only: Sequence[str] | None = None,
    parameters: Mapping[str, object] | None = None,
    folder: Path | None = None,
    cluster: str = "",
) -> int:
    """Run the notebooks whose results on `profile` are out of date, and print a summary.

    Executed copies go to `runs/<profile>/notebooks/`, that of a failing notebook to
    `runs/<profile>/partial/`; it does not stop the others, but for those that read its results.
    `cluster` names a folder with a Snakemake profile. Returns 1 if any notebook failed, else 0.

    Raises ValueError before anything runs for an unknown profile, notebook or parameter, missing
    photographs, or another run of the same; FileNotFoundError for an unknown cluster.
    """
    ends = _bring_up_to_date(find(only, folder), profile, parameters or {}, cluster)
    return int(any(end.status not in ("ok", "kept") for end in ends))


def refresh(only: Sequence[str] | None = None, folder: Path | None = None) -> int:
    """Bring the notebooks up to date on `mini` and write the executed copies over the originals.

    A notebook that fails keeps its old copy. Returns 1 if any failed, else 0. Raises NotebookError
    when a notebook's default profile is not `mini`, since its copy would need an injected cell, or
    when other seeds than those of `mini` are asked for.
    """
    import nbformat

    from realqa_utils.reproduction.committed import portable

    paths = find(only, folder)
    for path in paths:
        if defaults(path).get("profile") != "mini":
            raise NotebookError(f"{path.name}: the parameters cell must say profile = 'mini'")
    if get_profile("mini") != PROFILES["mini"]:
        raise NotebookError("REALQA_SEEDS is set: what is committed has the seeds of mini")
    ends = _bring_up_to_date(paths, "mini", {})
    for path, end in zip(paths, ends, strict=True):
        if end.status in ("ok", "kept"):
            notebook = portable(read(results.run_dir("mini", "notebooks") / path.name))
            results.write_text(path, nbformat.writes(notebook) + "\n")
    return int(any(end.status not in ("ok", "kept") for end in ends))


def prepare_dry_run(profile: str) -> None:
    """Set the environment so that all that follows is a dry run, in runs/<profile>/dry-run.

    Real photographs come from REALQA_DATA, or are made up where that is not set.
    """
    from realqa_utils.datasets import made_up

    place = results.run_dir(profile, "dry-run")
    os.environ |= {"REALQA_DRY_RUN": "1", "REALQA_ROOT": str(place)}
    if get_profile(profile).data == "real" and not os.environ.get("REALQA_DATA"):
        os.environ["REALQA_DATA"] = str(made_up.write(place / "data"))
    print(f"dry run: whatever is in {place} means nothing")


def plan(paths: Sequence[Path], profile: str, parameters: Mapping[str, object]) -> Path:
    """Check what is asked, then write the plan of the graph to the file that is returned."""
    if get_profile(profile).data == "real":
        _find_photographs(profile)
    parameters = {"profile": profile, **parameters}
    for path in paths:
        check_parameters(path, parameters)
    planned = graph.plan(paths, profile, parameters)
    return results.write_json(graph.folder(profile) / "plan.json", planned)


def _bring_up_to_date(
    paths: Sequence[Path], profile: str, parameters: Mapping[str, object], cluster: str = ""
) -> list[progress.Outcome]:
    get_profile(profile)
    lock = FileLock(graph.folder(profile) / "run.lock")  # freed when its holder ends, however
    try:
        with lock.acquire(timeout=0):
            ends = _follow(plan(paths, profile, parameters), cluster)
    except Timeout:
        raise NotebookError(f"profile {profile} is being reproduced already: wait for it") from None
    print(progress.summary(ends))
    return ends


def _follow(path: Path, cluster: str) -> list[progress.Outcome]:
    """Run a plan to its end."""
    planned = json.loads(path.read_text("utf-8"))
    process = engine.start(path, cluster)
    try:
        progress.follow(process, planned, engine.spare(path))
    finally:  # however it ends
        engine.stop(process)
    ends = progress.outcomes(planned)
    if process.returncode and not any(end.status == "failed" for end in ends):
        log = engine.log(path)
        print(f"Snakemake could not run the graph. The end of what it said in {log}:")
        print(*log.read_text("utf-8", "replace").strip().splitlines()[-5:], sep="\n")
    return ends


def _find_photographs(profile: str) -> None:
    """Make REALQA_DATA absolute: a notebook runs in another folder. Raises NotebookError."""
    given = os.environ.get("REALQA_DATA", "")
    if not given or not Path(given).expanduser().is_dir():
        state = f"{given} is no folder" if given else "it is not set"
        raise NotebookError(
            f"profile {profile} needs photographs: set REALQA_DATA to their folder ({state})"
        )
    os.environ["REALQA_DATA"] = str(Path(given).expanduser().resolve())
