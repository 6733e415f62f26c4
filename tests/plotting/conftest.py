"""Figures are tested in the style that notebooks use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from realqa_utils.plotting import plots


@pytest.fixture(autouse=True)
def notebook_style(own_style: None) -> Iterator[None]:
    plots.use_style()
    yield
    plots.plt.close("all")
