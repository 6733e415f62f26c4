"""Notebook 01: the taxonomy in a table, cards, a simulated annotator, the composite's files."""

from __future__ import annotations

import pandas as pd
import pytest

from realqa_utils.datasets import annotation
from realqa_utils.experiments import dataset_tour
from realqa_utils.forms import taxonomy
from realqa_utils.measures import composite
from realqa_utils.plotting import plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import results


@pytest.fixture(scope="module")
def settings():
    return get_profile("smoke", train_images=60)


@pytest.fixture(scope="module")
def data(settings, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "root", lambda: tmp_path_factory.mktemp("tour"))
        return dataset_tour.split(settings)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "root", lambda: tmp_path)
    return tmp_path


def test_the_table_shows_every_attribute_with_its_codes():
    table = dataset_tour.taxonomy_table()
    assert len(table) == 10
    assert table.loc[("low", "Exposure"), "codes"] == "1, 2, 3, 2, 1"
    assert table.loc[("high", "Composition"), "codes"] == "1 .. 10"
    assert table.loc[("middle", "Subject and Background"), "codes"] == ""


def test_cards_say_the_labels_in_words(data):
    images, texts = dataset_tour.cards(data, 2)
    row = data.test.frame.iloc[1]
    said = dict(texts[1])
    assert len(images) == 2 and len(said) == 10
    assert said["Composition"] == str(row["composition"])
    assert said["Saturation"] == taxonomy.BY_NAME["saturation"].tiers[row["saturation"]].words


def test_shares_of_labels_sum_to_one(data):
    shares = dataset_tour.label_shares(data)
    assert list(shares) == list(taxonomy.SCORED)
    assert all(share.sum() == pytest.approx(1) for share in shares.values())


def test_the_simulated_annotator_leaves_the_truth(settings, data, home):
    annotations, photos = dataset_tour.annotate(settings, data, seed=0)
    current, truth = annotations.current(), data.test.frame
    assert current["reviewed"].all() and list(photos) == list(truth["id"])
    for name in taxonomy.SCORED:
        assert current[name].astype(int).tolist() == truth[name].tolist()
    kept = annotation.agreement(annotations)
    assert (annotations.history()["event"] == "correct").sum() > 0
    assert "kappa" in " ".join(map(str, kept.columns)).lower()


def test_files_and_sentences_of_the_composite(settings, data, home):
    frame = data.train.frame
    fitted = dataset_tour.fit(data, 0)
    weights = dataset_tour.weights(settings, data, fitted, 0)
    table = composite.compare(frame, data.test.frame, seed=0, dataset=data.name, resamples=50)
    accuracy = pd.DataFrame(
        {"defect": ["stitched"], "metric": ["recall"], "estimate": [1.0], "low": [0.9],
         "high": [1.0], "n": [30]}
    )  # fmt: skip
    figure = plots.rows_with_intervals(weights, "title", "MOS per sd of the code")
    watch = results.Stopwatch()
    folder = dataset_tour.save(settings, data, table, weights, accuracy, {"weights": figure}, watch)
    written = {path.name for path in (home / "figures" / folder).iterdir()}
    for stem in ("", "_weights", "_curation"):
        assert f"01_dataset_and_composite{stem}.csv" in written
    text = dataset_tour.summary(table, weights)
    assert text.count("\n") == 3 and "the best single attribute" in text and "equal weights" in text
