"""Readings of three trainings on the same photographs, made up with a known noise."""

from __future__ import annotations

import numpy as np
import pandas as pd


def readings(noise: float, seed: int, n: int = 120) -> list[pd.DataFrame]:
    truth = np.random.default_rng(0).uniform(2, 8, n)
    frames = []
    for run in range(3):
        rng = np.random.default_rng([seed, run])
        expected = truth + rng.normal(0, noise, n)
        columns = {
            "id": [f"p{i}" for i in range(n)], "target": truth, "greedy": expected.round(),
            "expected": expected, "sd": 0.5, "answers": 1, "parsed": 1,
        }  # fmt: skip
        frames.append(pd.DataFrame(columns))
    return frames
