"""What `test_metric` starts twice at once: NCM over rows that are shared out among processes."""

from __future__ import annotations

import json
import os

import torch

from realqa_utils.ncm import NCM

DIGITS, IDS = 3, [11, 2, 3, 19, 22, 0, 7, 8, 15, 10]
BATCHES = [[0, 1, 2], [3, 4], [5, 6, 7, 8], [9]]  # of unequal size


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (10, 9, 23), labels (10, 9) and places: one row without a score, one with a NaN."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(10, 9, 23, generator=generator)
    digits = torch.randint(10, (10, DIGITS), generator=generator)
    labels = torch.full((10, 9), 5)
    places = torch.tensor([3, 5, 6]) + torch.randint(0, 3, (10, 1), generator=generator)
    labels.scatter_(1, places, torch.tensor(IDS)[digits])
    places[4] = -1
    logits[7, places[7, 1] - 1, IDS[0]] = torch.nan
    return logits, labels, places


def measure(batches: list[list[int]]) -> dict[str, float]:
    """All values over some batches; with all processes that there are."""
    logits, labels, places = rows()
    metric = NCM(None, IDS, DIGITS)
    for batch in batches:
        metric.update(logits[batch], labels[batch], places[batch])
    return {name: value.item() for name, value in metric.compute().items()}


def main() -> None:
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    result = {"world": world, **measure(BATCHES[rank::world])}
    with open(f"{os.environ['NCM_OUT']}/{rank}.json", "w") as file:
        json.dump(result, file)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
