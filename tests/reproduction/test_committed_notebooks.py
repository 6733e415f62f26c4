"""The notebooks in the repository: fresh, and alike in their parameters.

Whether they go through is what `test_dry_run` asks, and the reproduction.
"""

from __future__ import annotations

import pytest

from realqa_utils.reproduction import committed, notebooks, parameters

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
