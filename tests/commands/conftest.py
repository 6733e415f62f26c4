"""What tests of commands share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def model(tiny_backbone, tmp_path_factory) -> str:
    """The folder of a small model that was never taught."""
    folder = tmp_path_factory.mktemp("model")
    tiny_backbone.save(folder, torch.float32)
    return str(folder)
