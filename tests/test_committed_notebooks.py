"""The notebooks in the repository: fresh, in order, and going through in seconds on `smoke`."""

from __future__ import annotations

import pytest

from realqa_utils import committed, notebooks, parameters

PATHS = notebooks.find()
IDS = [path.stem for path in PATHS]


@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_committed_as_executed(path):
    assert committed.why_stale(path) == ""


@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_parameters_have_the_same_names_everywhere(path):
    given = parameters.defaults(path)
    assert {"profile", "seed"} <= set(given) and len(given) <= 6
    assert given["profile"] == "mini"


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_goes_through_on_smoke(path, tmp_path, monkeypatch):
    """In the root of the session: notebooks share models, which are then trained once."""
    monkeypatch.setenv("REALQA_WORKERS", "1")  # to start others takes longer than their work
    notebooks.run(path, tmp_path / path.name, {"profile": "smoke"})
