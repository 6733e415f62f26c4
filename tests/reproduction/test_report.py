"""The pages: every link leads somewhere, nothing comes from the network, nothing is a script."""

from __future__ import annotations

import base64
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from realqa_utils.claims import paper
from realqa_utils.records import results
from realqa_utils.reproduction import graph, report

LINKS = """# 05 · Digits <b>&</b> more

See [06](06_ncm.ipynb), [its end](06_ncm.ipynb#The-end), [not run](09_missing.ipynb),
[here](#The-end), [readme](../README.md) and [the paper](https://arxiv.org/abs/2503.06141).

## The end
"""
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n, as far as a page knows").decode()


class Page(HTMLParser):
    """What a browser would see of a page, read by the standard library."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.ids, self.links, self.loaded = set(), set(), [], []
        self.tag = self.text = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.tag = tag
        self.ids.add(given.get("id"))
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        self.loaded += [given[key] for key in ("src", "srcset", "data") if key in given]
        self.loaded += [given["href"]] if tag == "link" else []

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, data):
        self.text += data if self.tag != "style" else ""


@pytest.fixture
def pages(root, monkeypatch) -> dict[str, Page]:
    folder = results.run_dir("smoke", "notebooks")
    wide = f"<table><tr>{'<td>0.123456789</td>' * 40}</tr></table>"
    shown = [
        new_output("display_data", {"text/html": wide}),
        new_output("stream", text="word" * 200),
        new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"}),
        new_output("display_data", {"text/html": "<table><tr><td>0.9</td></tr></table>"}),
        new_output("display_data", {"text/html": "<script>alert(1)</script>kept"}),
        new_output("display_data", {"application/javascript": "alert(2)", "text/plain": "plain"}),
        new_output("display_data", {report.WIDGET: {"model_id": "a"}, "text/plain": "VBox()"}),
        new_output("stream", text="a < b\n"),
    ]
    cells = [new_markdown_cell(LINKS), new_code_cell("print('a < b')", outputs=shown)]
    nbformat.write(new_notebook(cells=cells), folder / "05_digits.ipynb")
    other = [new_markdown_cell("# 06 · NCM"), new_markdown_cell("## The end")]
    nbformat.write(new_notebook(cells=other), folder / "06_ncm.ipynb")
    results.write_text(graph.folder("smoke") / "06_ncm.0123456789abcdef.json", "{}")
    results.save_figure(Figure(), results.figure_dir("smoke") / "05_digits.png")
    results.write_text(results.figure_dir("smoke") / "05_digits_verdicts.csv", "a\n1\n")
    results.record_claim("smoke", "T4-two-extra-digits", notebook="05", estimate=-0.5, low=-0.75,
                         high=0.25, n=24, seeds=0, measured="M = 3 > M = 1")  # fmt: skip
    results.record_claim("smoke", "T4-two-extra-digits", notebook="05", estimate=1, low=0.5, high=2,
                         n=24, seeds=0, measured="52 steps", longer=True)  # fmt: skip
    monkeypatch.setattr(graph, "SHOWN", {"06": "longer"})
    results.write_text(results.figure_dir("smoke") / "longer.csv", "a\n1\n")
    index = report.build("smoke")
    assert index == root / "runs" / "smoke" / "report" / "index.html"
    return {path.name: Page(path) for path in index.parent.glob("*.html")}


def test_one_page_a_notebook_and_an_index(pages):
    assert sorted(pages) == ["05_digits.html", "06_ncm.html", "index.html"]


def test_every_link_leads_somewhere(pages, root):
    folder = root / "runs" / "smoke" / "report"
    for name, page in pages.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme:
                assert link == "https://arxiv.org/abs/2503.06141"
                continue
            path = unquote(target.path) or name
            assert (folder / path).is_file(), f"{name}: {link}"
            if target.fragment:  # as it is, then decoded: the order of browsers
                wanted = {target.fragment, unquote(target.fragment)}
                assert wanted & pages[path].ids, f"{name}: {link}"
    assert "06_ncm.html#The-end" in pages["05_digits.html"].links
    assert "#The-end" in pages["05_digits.html"].links


def test_a_link_to_what_is_not_here_becomes_its_text(pages):
    assert "not run" in pages["05_digits.html"].text and "readme" in pages["05_digits.html"].text
    assert not [link for page in pages.values() for link in page.links if "missing" in link]


def test_nothing_is_loaded_from_elsewhere(pages, root):
    folder = root / "runs" / "smoke" / "report"
    for name, page in pages.items():
        assert not page.tags & {"script", "iframe", "link", "object", "embed"}, name
        for source in page.loaded:
            assert source.startswith("data:image/") or (folder / source).is_file(), source
        style = (folder / name).read_text("utf-8")
        assert "@import" not in style and "url(" not in style
    assert f"data:image/png;base64,{PNG}" in [s.strip() for s in pages["05_digits.html"].loaded]


def test_a_notebook_is_shown_without_what_needs_a_script(pages):
    text = pages["05_digits.html"].text
    assert "a < b" in text and "0.9" in text and "kept" in text and "plain" in text
    assert "alert" not in text and "VBox" not in text and "Live in JupyterLab only." in text


def test_words_in_a_table_may_wrap_and_numbers_may_not():
    long = "a sentence that is longer than any interval"
    frame = pd.DataFrame(
        {"said": ["few words", long], "srcc": ["0.9 [0.8, 1.0]", "nan"], "n": [3, np.nan]},
        index=["one", long],
    )
    table = BeautifulSoup(report.marked(frame.to_html()), "html.parser")
    head, *rows = table("tr")
    classes = [[cell.get("class") for cell in row("td")] for row in rows]
    assert classes == [[["words"], None, None], [["words", "long"], None, None]]
    assert [cell.get("class") for cell in head("th")] == [None, ["words"], None, None]
    assert [row.th.get("class") for row in rows] == [None, ["long"]]
    assert table.text == BeautifulSoup(frame.to_html(), "html.parser").text
    assert report.marked("<table></table>") == "<table></table>"
    two = pd.DataFrame({("a", "x"): ["words"], ("a", "y"): [0.5]})  # a heading over two columns
    spanned = BeautifulSoup(report.marked(two.to_html()), "html.parser")
    assert [cell.get("class") for cell in spanned("td")] == [["words"], None]


def test_the_index_has_every_claim_with_its_verdict(pages):
    page = pages["index.html"]
    assert "M = 3 > M = 1" in page.text
    assert "\N{MINUS SIGN}0.500 [\N{MINUS SIGN}0.750, 0.250]" in page.text
    assert page.text.count("undecided") == 1
    assert page.text.count("not run") == len(paper.CLAIMS) - 1
    assert page.text.count("holds") == 1 and "52 steps" in page.text  # by longer trainings
    figures = ("05_digits_verdicts.csv", "05_digits.png", "longer.csv")
    assert {"05_digits.html", *(f"figures/{name}" for name in figures)} <= {*page.links}


def test_results_of_an_unfinished_run_are_marked(pages):
    assert pages["index.html"].text.count("the last one did not finish") == 1  # 05 has no stamp


def test_a_page_made_again_forgets_what_was_there(pages, root):
    (results.run_dir("smoke", "notebooks") / "05_digits.ipynb").unlink()
    folder = report.build("smoke").parent
    assert sorted(path.name for path in folder.glob("*.html")) == ["06_ncm.html", "index.html"]


def test_nothing_to_show(root):
    with pytest.raises(FileNotFoundError, match="no executed notebooks of profile smoke: run real"):
        report.build("smoke")
    with pytest.raises(ValueError, match="unknown profile 'smok'"):
        report.build("smok")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_no_page_is_wider_than_the_screen(pages, root, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no browser: neither chromium nor google-chrome is installed")
    asked, said = [], []
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": width, "height": 844})
        page.set_default_timeout(120_000)  # ms; a shared machine is no reason to fail
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        for name in pages:
            page.goto((root / "runs" / "smoke" / "report" / name).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width, name
        chromium.close()
    assert said == []
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data"}
