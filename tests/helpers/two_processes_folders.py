"""What `test_folders` starts: one process or two that score a folder with a model from disk.

Arguments: model, photographs, results; seconds to wait for before every batch, photographs in it,
and the side of the window that is looked at (0: the whole photograph).
"""

from __future__ import annotations

import json
import sys
import time

import torch

from realqa_utils.images.views import View
from realqa_utils.model import backbone
from realqa_utils.records import provenance
from realqa_utils.scoring import folder_rows, folders


def score(model: str, photos: str, out: str, batch_size="4", side="0") -> folders.Summary | None:
    loaded, view = backbone.load(model), View(int(side), int(side))
    options = {"digits": 2, "view": view, "batch_size": int(batch_size), "progress": False}
    return folders.score(loaded, photos, out, **options)


def main(model: str, photos: str, out: str, delay="0", *options: str) -> None:
    plain = folder_rows._rows

    def slow(*arguments) -> list[dict]:
        time.sleep(float(delay))
        return plain(*arguments)

    torch.set_num_threads(1)
    folder_rows._rows = slow
    if summary := score(model, photos, out, *options):
        peak = provenance.provenance()["peak_memory_mib"]
        print(json.dumps({"scored_now": summary.scored_now, "peak": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
