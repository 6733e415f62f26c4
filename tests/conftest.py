"""What all tests share: no network, no figures in windows, nothing written into the checkout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and start processes
os.environ.setdefault("REALQA_WORKERS", "1")  # whose imports take longer than small jobs
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples in every run; a shared machine is no reason to fail.
settings.register_profile("kit", deadline=None, derandomize=True)
settings.load_profile("kit")


def _missing() -> str:
    """Why there are no real files; empty when the folder is there."""
    folder = os.environ.get("REALQA_DATA")
    if not folder:
        return "REALQA_DATA is not set: it names a folder of real annotation files and photographs"
    return "" if Path(folder).is_dir() else f"REALQA_DATA names {folder}, which is no folder"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _missing()
    for item in items if reason else ():
        if item.get_closest_marker("realdata"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def scratch_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`figures/` and `runs/` of the whole session lie in a temporary folder."""
    folder = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALQA_ROOT", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def own_style() -> Iterator[None]:
    """A style that a test sets for its figures ends with it."""
    import matplotlib

    with matplotlib.rc_context():
        yield


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty root of this test's own."""
    monkeypatch.setenv("REALQA_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def real_file() -> Callable[[str], Path]:
    """The path of a real file or folder below REALQA_DATA; skips, naming it, when it is missing."""

    def find(relative: str) -> Path:
        if reason := _missing():
            pytest.skip(reason)
        path = Path(os.environ["REALQA_DATA"], relative).resolve()
        if not path.exists():
            pytest.skip(f"{relative} is missing in REALQA_DATA")
        return path

    return find


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A Qwen2 tokenizer of 600 bytes and merges, trained on the kit's own texts."""
    import numpy as np

    from realqa_utils.datasets import mini
    from realqa_utils.forms import captions
    from realqa_utils.forms.conversations import vocabulary_texts
    from realqa_utils.model.tokenizer import train_tokenizer

    rng = np.random.default_rng(0)
    scenes = [mini.scene_at("mini-koniq", 0, index) for index in range(100)]
    said = [captions.caption(mini.labels(scene)) for scene in scenes]
    numbers = [captions.number_text(rng) for _ in range(100)]
    return train_tokenizer([*vocabulary_texts(), *said, *numbers], 600)


@pytest.fixture(scope="session")
def tiny_backbone(tiny_tokenizer):
    """The mini backbone with random weights; shared, so a test must leave its weights alone."""
    import torch

    from realqa_utils.model.backbone import new_mini

    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = new_mini(tiny_tokenizer)
    backbone.model.eval()
    return backbone
