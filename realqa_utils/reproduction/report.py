"""The executed notebooks and the claims of a profile as web pages that need no network.

The pages hold no script, and the pictures of the notebooks are within them. Only links that lead
somewhere are kept: to the pages of other notebooks, to tables and figures, and to the web.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from nbformat import NotebookNode

from realqa_utils.claims import paper
from realqa_utils.profiles import get_profile
from realqa_utils.records import results
from realqa_utils.reproduction import graph
from realqa_utils.reproduction.parameters import read

TEMPLATE = Path(__file__).with_name("report.html")
#: What is shown of an output that comes in several forms: the first of these. No scripts, no
#: widgets, which need one.
SHOWN = ("text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain")
WIDGET = "application/vnd.jupyter.widget-view+json"
KINDS = (".png", ".csv", ".json")
SHORT = 33  # characters of a cell, as many as a verdict and its interval have
WORD = re.compile(r"\b(?!nan\b)[^\W\d_]{2}", re.IGNORECASE)


def build(profile: str) -> Path:
    """Write the pages into `runs/<profile>/report/` and return its `index.html`.

    Raises ValueError for an unknown profile, FileNotFoundError when no notebook was executed.
    """
    executed = sorted(results.run_dir(profile, "notebooks").glob(graph.PATTERN))
    if not executed:
        raise FileNotFoundError(
            f"no executed notebooks of profile {profile}: run realqa reproduce first"
        )
    place = results.run_dir(profile) / "report"
    results.write_folder(place, lambda folder: _fill(folder, executed, profile))
    return place / "index.html"


def _fill(folder: Path, executed: Sequence[Path], profile: str) -> None:
    (folder / "figures").mkdir()
    for path in _files(profile):
        shutil.copy(path, folder / "figures")
    notebooks = {path.stem: read(path) for path in executed}
    stems = [*notebooks]
    neighbours = zip(["", *stems], [*stems[1:], ""], strict=False)
    for (stem, notebook), (before, after) in zip(notebooks.items(), neighbours, strict=True):
        body, style = _body(notebook, stems)
        nav = _nav(before, after)
        _write(folder / f"{stem}.html", _title(notebook, stem), nav, body, style)
    title = f"RealQA on {profile}"
    _write(folder / "index.html", title, f"<b>{title}</b>", _index(notebooks, profile))


def _write(path: Path, title: str, nav: str, body: str, style: str = "") -> None:
    known = {"title": html.escape(title), "nav": nav, "body": body, "style": style}
    template = TEMPLATE.read_text("utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: known[match[1]], template)
    path.write_text(page, "utf-8")


def _files(profile: str) -> list[Path]:
    return sorted(p for p in results.figure_dir(profile).iterdir() if p.suffix in KINDS)


# --- a notebook ----------------------------------------------------------------------------------


def _title(notebook: NotebookNode, stem: str) -> str:
    """The first heading of a notebook."""
    for cell in notebook.cells:
        if found := re.match(r"# +(.+)", cell.source) if cell.cell_type == "markdown" else None:
            return found[1]
    return stem


def _nav(before: str, after: str) -> str:
    links = [f'<a href="{before}.html">&larr; {before[:2]}</a>'] if before else []
    links += [f'<a href="{after}.html">{after[:2]} &rarr;</a>'] if after else []
    return f'<a href="index.html">All notebooks</a><span class="end">{"".join(links)}</span>'


def _body(notebook: NotebookNode, pages: Sequence[str]) -> tuple[str, str]:
    """The notebook as HTML, and the style of its code."""
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                output.data = {"text/html": '<p class="soft">Live in JupyterLab only.</p>'}
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        config=Config(
            {
                "NbConvertBase": {"display_data_priority": list(SHOWN)},
                "CSSHTMLHeaderPreprocessor": {"style": "default"},
            }
        ),
    )
    body, resources = exporter.from_notebook_node(notebook)
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL | re.IGNORECASE)
    body = re.sub(r"<table\b.*?</table>", lambda match: marked(match[0]), body, flags=re.DOTALL)
    return _with_links(body, pages), "\n".join(resources["inlining"]["css"])


def marked(table: str) -> str:
    """The HTML of a table with the class `words` on columns that hold words, which stand on the
    left, and `long` on cells that may wrap; numbers and intervals stay in a line."""
    from bs4 import BeautifulSoup

    parsed = BeautifulSoup(table, "html.parser")
    rows = [cells for row in parsed("tr") if (cells := row("td"))]
    width = max(map(len, rows), default=0)
    heads = parsed.tr("th")[-width:] if width else []
    for place in range(-width, 0):  # from the right: on the left stand labels, some of many rows
        column = [row[place] for row in rows if len(row) == width]
        if any(WORD.search(cell.text) for cell in column):
            for cell in column + ([heads[place]] if len(heads) == width else []):
                cell["class"] = "words"
    for cell in parsed("td", "words") + parsed("th"):
        if len(cell.text) > SHORT:
            cell["class"] = f"{cell.get('class', '')} long".strip()
    return str(parsed)


def _with_links(body: str, pages: Sequence[str]) -> str:
    """Links to notebooks lead to their pages; a link to what is not here becomes its text."""

    def link(match: re.Match) -> str:
        start, target, end, text = match.groups()
        if target.startswith(("http://", "https://", "#")):
            return match[0]
        path, _, anchor = html.unescape(target).partition("#")
        stem = Path(path).stem
        if Path(path).suffix == ".ipynb" and stem in pages:
            return f'<a{start}href="{stem}.html{"#" + anchor if anchor else ""}"{end}>{text}</a>'
        return text

    return re.sub(r'<a\b([^>]*?)href="([^"]*)"([^>]*)>(.*?)</a>', link, body, flags=re.DOTALL)


# --- the index -----------------------------------------------------------------------------------


def _index(notebooks: Mapping[str, NotebookNode], profile: str) -> str:
    settings = get_profile(profile)
    parts = [
        f"<h1>RealQA on <code>{profile}</code></h1>",
        f"<p>{html.escape(settings.description)}</p>",
        "<h2>What the paper claims, and what was found</h2>",
        _claims(profile, {stem[:2]: stem for stem in notebooks}),
        "<h2>Notebooks</h2>",
    ]
    for stem, notebook in notebooks.items():
        shown = graph.SHOWN.get(stem[:2])
        own = [p for p in _files(profile) if graph.is_of(p, stem) or p.stem == shown]
        parts.append(_entry(stem, _title(notebook, stem), own, bool(graph.stamps(stem, profile))))
    return "\n".join(parts)


def _entry(stem: str, title: str, files: Sequence[Path], current: bool) -> str:
    """One notebook: a link to it, its figures, and its tables to download."""
    note = "" if current else '<p class="soft">Of an earlier run: the last one did not finish.</p>'
    pictures = [
        f'<figure><a href="figures/{p.name}"><img loading="lazy" src="figures/{p.name}" '
        f'alt="{p.stem}"></a><figcaption>{p.name}</figcaption></figure>'
        for p in files
        if p.suffix == ".png"
    ]
    links = [
        f'<li><a href="figures/{p.name}">{p.name}</a></li>' for p in files if p.suffix != ".png"
    ]
    shown = f'<div class="figures">{"".join(pictures)}</div>' if pictures else ""
    listed = f'<ul class="files">{"".join(links)}</ul>' if links else ""
    head = f'<h3 id="{stem}"><a href="{stem}.html">{html.escape(title)}</a></h3>'
    return "\n".join([head, note, shown, listed])


def _claims(profile: str, pages: Mapping[str, str]) -> str:
    """Every claim of the paper with its verdict; `not run` where nothing was recorded.

    A further row tells what longer trainings made of it.
    """
    found = [results.claims(profile, longer).set_index("claim") for longer in (False, True)]
    rows = []
    for claim, statement in paper.CLAIMS.items():
        own = [table.loc[claim] for table in found if claim in table.index]
        rows += [_claim(statement, row, pages) for row in own or [None]]
    head = "<tr><th>claim</th><th>estimate [95 % interval]</th><th>verdict</th></tr>"
    return (
        f'<div class="wide"><table class="claims"><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _claim(statement: str, row: pd.Series | None, pages: Mapping[str, str]) -> str:
    if row is None:
        cells = [html.escape(statement), "", '<span class="verdict not-run">not run</span>']
    else:
        page = pages.get(row["notebook"])
        source = f'notebook <a href="{page}.html">{page[:2]}</a>' if page else row["notebook"]
        numbers = f"{row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        cells = [
            f"{html.escape(row['statement'])} <span class='soft'>{source}, n = {row['n']}</span>",
            numbers.replace("-", "\N{MINUS SIGN}"),
            f'<span class="verdict {row["verdict"]}">{row["verdict"]}</span>',
        ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
