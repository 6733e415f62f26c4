"""`realqa evaluate`: scipy on what it wrote, runs that are cut off, what it refuses."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import public_sets
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats

from realqa_utils import cli
from realqa_utils.commands import evaluate as evaluate_command
from realqa_utils.datasets import registry
from realqa_utils.forms.chains import CHAINS
from realqa_utils.forms.scores import SCALES
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import PRESETS
from realqa_utils.model import adapters, released
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.backbone import load as load_backbone
from realqa_utils.records import results
from realqa_utils.scoring import digit_tree, form_filling
from realqa_utils.scoring.digit_tree import Reading

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

COUNT = 40  # of rated photographs, two of them alike


def draw(path: str | Path, number: int) -> None:
    """A photograph whose brightness is its own."""
    noise = np.random.default_rng(number).integers(-20, 21, (24, 32, 3))
    Image.fromarray((25 + 5 * number + noise).astype(np.uint8)).save(path, "PNG")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """LIVE Challenge and KonIQ-10k, of real photographs."""
    data = tmp_path_factory.mktemp("data")
    names = ["t1.bmp", "t2.bmp", *(f"{k}.bmp" for k in range(300, 300 + COUNT - 1)), "246.bmp"]
    mos = np.random.default_rng(0).uniform(5, 95, len(names)).round(4).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public_sets, "LIVEC", names)
        patch.setattr(public_sets, "LIVEC_MOS", mos)
        images = public_sets.write_livec(data) / "Images"
    for number, name in enumerate(names[2:]):
        draw(images / name, number)
    shutil.copy(images / "333.bmp", images / "246.bmp")
    koniq = public_sets.write_koniq(data) / "512x384"
    for number, row in enumerate(public_sets.KONIQ):
        draw(koniq / row[0], number)
    return data


@pytest.fixture
def data(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "data")


@pytest.fixture
def run(data, tmp_path):
    """The command on LIVE Challenge; a later option overrides an earlier one."""

    def call(*more: str, out: str = "out") -> int:
        given = ["--set", "livec", "--protocol", "all", "--data", str(data), "--model", "some"]
        given += ["--pixels", "as-is", "--out", str(tmp_path / out)]
        return cli.main(["evaluate", *given, *more])

    return call


@pytest.fixture
def asked(tiny_backbone, monkeypatch) -> list[int]:
    """A model that sees brightness, and does not keep to the form where a photograph is dark;
    sizes of the batches that it was asked about."""
    batches = []

    def read(backbone, images, digits, form):
        batches.append(len(images))
        return [reading(float(np.asarray(image).mean()) / 26, digits) for image in images]

    monkeypatch.setattr(digit_tree, "read", read)
    known = {"model_hash": "weights", "adapter_hash": None}
    monkeypatch.setattr(evaluate_command, "load", lambda options: (tiny_backbone, dict(known)))
    return batches


def reading(score: float, digits: int = 3) -> Reading:
    values = np.array([score, score + 3 * (score % 0.5)])
    return Reading(f"{score:.{digits - 1}f}", bool(score > 2), values, np.array([0.25, 0.75]), 0.0)


def refused(capsys, code: int, message: str) -> None:
    """One line that says so, and the exit code of bad input."""
    *before, told = capsys.readouterr().err.splitlines()
    assert code == 2 and told.startswith("realqa: ") and message in told
    assert not any("realqa: " in line or "Traceback" in line for line in before)  # bars alone


SCIPY = {
    "srcc": lambda a, b: stats.spearmanr(a, b).statistic,
    "plcc": lambda a, b: stats.pearsonr(a, b).statistic,
    "rmse": lambda a, b: float(np.mean((a - b) ** 2) ** 0.5),
}

# --- numbers -------------------------------------------------------------------------------------


def test_numbers_are_scipys_on_the_scores(run, asked, tmp_path, capsys):
    assert run("--seed", "3") == 0
    frame = pd.read_csv(tmp_path / "out" / "scores.csv", dtype={"id": str})
    assert list(frame) == list(evaluate_command.COLUMNS)
    assert len(frame) == COUNT and frame["problem"].isna().all()
    assert frame["parsed"].equals(frame["greedy"].notna()) and frame["parsed"].sum() not in (0, 40)
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert list(table)[:8] == list(results.TABLE_COLUMNS) and len(table) == 6
    for row in table.itertuples():
        said = frame[row.read].fillna(5)
        assert row.estimate == pytest.approx(SCIPY[row.metric](frame["target"], said), rel=2e-6)
        assert row.low < row.estimate < row.high and row.n == COUNT
        assert row.parsed == frame["parsed"].sum() and row.seeds == 3
        assert (row.dataset, row.model) == ("LIVE Challenge, all", "some")
    told = capsys.readouterr().out
    srcc = table[(table["read"] == "greedy") & (table["metric"] == "srcc")]["estimate"].item()
    assert f"SRCC {srcc:.3f}" in told
    assert f"{frame['parsed'].sum()} of {COUNT} free-running answers could be read" in told


def test_targets_are_those_of_the_set(run, asked, data, tmp_path):
    run()
    frame = pd.read_csv(tmp_path / "out" / "scores.csv", dtype={"id": str}).set_index("id")
    (split,) = registry.splits("livec", "all", data)
    mos = split.test.frame.set_index("id")["mos"]
    assert frame["target"].tolist() == pytest.approx((mos[frame.index] / 10).tolist(), rel=1e-5)
    assert SCALES["livec"].high == 100


def test_the_same_seed_gives_the_same_bytes(run, asked, tmp_path):
    for out in ("a", "b"):
        run(out=out)
    for name in ("scores.csv", "results.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    run("--seed", "1", out="b")
    a, b = (pd.read_csv(tmp_path / out / "results.csv") for out in ("a", "b"))
    assert a["estimate"].equals(b["estimate"]) and not a["low"].equals(b["low"])


def test_splits_are_pooled_and_shared_photographs_asked_about_once(run, asked, data, tmp_path):
    assert run("--protocol", "random") == 0
    frame = pd.read_csv(tmp_path / "out" / "scores.csv", dtype={"id": str})
    made = registry.splits("livec", "random", data)
    ids = [(split.name, id_) for split in made for id_ in split.test.frame["id"]]
    assert list(zip(frame["split"], frame["id"], strict=True)) == ids
    assert sum(asked) == frame["id"].nunique() < len(frame)
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    for row in table.itertuples():
        filled = frame.assign(said=frame[row.read].fillna(5))
        each = [SCIPY[row.metric](p["target"], p["said"]) for _, p in filled.groupby("split")]
        assert len(each) == 5 and row.estimate == pytest.approx(np.mean(each), rel=2e-6)
        assert row.n == len(frame)
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["interval"] == "95 % percentile bootstrap over splits and test images, " \
        "1000 resamples"  # fmt: skip
    assert [side["ids_hash"] for side in record["test"]] == [s.test.ids_hash for s in made]


def test_a_limit_is_told_wherever_a_number_is(run, asked, tmp_path, capsys):
    assert run("--limit", "6") == 0
    told = capsys.readouterr().out.splitlines()
    loud = f"first 6 of {COUNT} photographs, not the set's result"
    assert sum(loud in line for line in told) == 2 and loud in told[0]
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert table["dataset"].str.contains(loud).all() and (table["n"] == 6).all()
    assert sum(asked) == 6
    assert run() == 0  # goes on from there
    assert sum(asked) == COUNT and "not the set's" not in capsys.readouterr().out


# --- models --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tiny_backbone, tmp_path_factory) -> Path:
    """Of random numbers, under the names of transformers 4."""
    folder = tmp_path_factory.mktemp("adapter")
    fresh = Backbone(copy.deepcopy(tiny_backbone.model), tiny_backbone.tokenizer, None)
    trained = adapters.prepare(fresh, "lora", "lora", 4, 12, 0.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    trained.model.save_pretrained(folder)
    made = Path(folder, released.WEIGHTS)
    saved = released.load_file(made)
    short = {"model.model.visual.": "model.visual.", "model.model.language_model.": "model.model."}
    for new, old in short.items():
        saved = {n.replace(f"base_model.{new}", f"base_model.{old}"): t for n, t in saved.items()}
    save_file(saved, made)
    config = json.loads(Path(folder, released.CONFIG).read_text())
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config["target_modules"] = [*layers, "attn.qkv", "attn.proj", "fc1", "fc2"]
    Path(folder, released.CONFIG).write_text(json.dumps(config))
    return folder


def of_koniq(data: Path, *more: str) -> tuple[list[str], list[Image.Image]]:
    """Options for the two test photographs of KonIQ-10k, and these as they are."""
    given = ["--set", "koniq", "--protocol", "official", "--out", str(data.parent / "out"), *more]
    rows = [row[0] for row in public_sets.KONIQ if row[5] == "test"]
    (split,) = registry.splits("koniq", "official", data, photos=False)
    assert set(split.test.frame["id"]) == set(rows)
    return given, [open_photo(path) for path in split.test.frame["path"]]


def test_a_real_model_reads_the_preset_s_pixels_with_its_adapter(run, data, model, adapter):
    """Photographs to train on need not be there."""
    for row in public_sets.KONIQ:
        if row[5] != "test":
            (data / "koniq10k" / "512x384" / row[0]).unlink()
    wide = np.random.default_rng(0).integers(0, 256, (300, 800, 3), dtype=np.uint8)
    Image.fromarray(wide).save(data / "koniq10k" / "512x384" / "43280.jpg", "PNG")
    more, photographs = of_koniq(data, "--model", model, "--adapter", str(adapter))
    assert run(*more, "--pixels", "repo", "--digits", "2") == 0
    expected = released.load(load_backbone(model), adapter)
    expected.look_at(*PRESETS["repo"].pixels)
    small = [image.resize((512, 192), 0) if image.width == 800 else image for image in photographs]
    assert small != photographs
    said = digit_tree.as_frame(digit_tree.read(expected, small, 2))
    frame = pd.read_csv(data.parent / "out" / "scores.csv", dtype={"id": str})
    for column in ("expected", "sd"):
        assert frame[column].tolist() == pytest.approx(said[column].tolist(), rel=1e-4)
    record = json.loads((data.parent / "out" / "record.json").read_text())
    assert record["processor"] == {"shortest_edge": 200704, "longest_edge": 401408}
    assert (record["n"], record["n_parsed"]) == (2, int(said["parsed"].sum()))
    assert len(record["model_hash"]) == len(record["adapter_hash"]) == 16
    assert (record["form"], record["digits"], record["pixels"]) == ("direct", 2, "repo")
    assert record["adapter"] == str(adapter) and "versions" in record


def test_a_chain_is_filled_in(run, data, model):
    more, photographs = of_koniq(data, "--model", model, "--form", "cot_regular")
    assert run(*more) == 0
    backbone = load_backbone(model)
    said = form_filling.fill(backbone, photographs, CHAINS["cot_regular"])
    frame = pd.read_csv(data.parent / "out" / "scores.csv")
    wanted = [one.reading.expected for one in said]
    assert frame["expected"].tolist() == pytest.approx(wanted, rel=1e-4)
    assert frame["parsed"].tolist() == [one.reading.parsed and one.follows for one in said]


@pytest.mark.parametrize("weights", ["bfloat16", "nf4"])
def test_other_precisions_are_near(run, data, model, weights):
    more, photographs = of_koniq(data, "--model", model, "--weights", weights)
    assert run(*more) == 0
    exact = [one.expected for one in digit_tree.read(load_backbone(model), photographs)]
    frame = pd.read_csv(data.parent / "out" / "scores.csv")
    assert frame["expected"].tolist() != pytest.approx(exact, rel=1e-6)
    assert frame["expected"].tolist() == pytest.approx(exact, abs=0.5)
    assert json.loads((data.parent / "out" / "record.json").read_text())["weights"] == weights


# --- runs that are cut off, and other settings ---------------------------------------------------


def test_a_run_that_was_cut_off_asks_only_for_what_is_missing(run, asked, tmp_path, monkeypatch):
    whole = digit_tree.read

    def cut(*given):
        if len(asked) == 2:
            raise MemoryError("out of memory")
        return whole(*given)

    run(out="straight")
    straight = sum(asked)
    asked.clear()
    monkeypatch.setattr(digit_tree, "read", cut)
    with pytest.raises(MemoryError):
        run()
    assert asked == [8, 8] and not (tmp_path / "out" / "scores.csv").exists()
    monkeypatch.setattr(digit_tree, "read", whole)
    assert run("--batch-size", "5") == 0
    assert asked == [8, 8, 5, 5, 5, 5, 4] and sum(asked) == straight == COUNT
    for name in ("scores.csv", "results.csv"):
        one, other = (tmp_path / out / name for out in ("straight", "out"))
        assert one.read_bytes() == other.read_bytes()
    assert run() == 0 and sum(asked) == COUNT


@pytest.mark.parametrize(
    "change",
    ["--digits 2", "--form cot_natural", "--pixels clean", "--model other", "--adapter some",
     "--protocol random", "--weights bfloat16"],
)  # fmt: skip
def test_other_settings_are_refused_before_a_model_is_loaded(
    run, asked, tmp_path, capsys, monkeypatch, change
):
    run()
    before = (tmp_path / "out" / "scores.csv").read_bytes()
    monkeypatch.setattr(evaluate_command, "load", lambda _: pytest.fail("the model was loaded"))
    capsys.readouterr()
    refused(capsys, run(*change.split()), f"of another run: {change.split()[0][2:]} was ")
    assert (tmp_path / "out" / "scores.csv").read_bytes() == before


@pytest.mark.parametrize("which", ["model_hash", "adapter_hash"])
def test_other_weights_of_the_same_name_are_refused(
    run, asked, tiny_backbone, capsys, monkeypatch, which
):
    run()
    known = {"model_hash": "weights", "adapter_hash": None} | {which: "others"}
    monkeypatch.setattr(evaluate_command, "load", lambda options: (tiny_backbone, dict(known)))
    capsys.readouterr()
    refused(capsys, run(), f"of another run: {which} was ")


# --- what is wrong -------------------------------------------------------------------------------


def test_photographs_with_a_problem_are_told_and_the_others_count(
    run, asked, data, tmp_path, capsys
):
    images = next(data.rglob("Images"))
    (images / "305.bmp").write_bytes(b"no photograph")
    Image.new("RGB", (4000, 4)).save(images / "306.bmp")
    assert run() == 0
    frame = pd.read_csv(tmp_path / "out" / "scores.csv", dtype={"id": str}).set_index("id")
    assert "not a photo that can be read" in frame["problem"]["305.bmp"]
    assert "aspect ratio" in frame["problem"]["306.bmp"]
    bad = ["305.bmp", "306.bmp"]
    good = frame.drop(bad)
    assert frame.loc[bad, ["greedy", "expected", "sd", "parsed"]].isna().all(axis=None)
    assert good["problem"].isna().all() and good["expected"].notna().all()
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    (srcc,) = table[(table["read"] == "expected") & (table["metric"] == "srcc")].itertuples()
    assert srcc.n == COUNT - 2
    wanted = SCIPY["srcc"](good["target"], good["expected"])
    assert srcc.estimate == pytest.approx(wanted, rel=2e-6)
    told = capsys.readouterr().out
    assert "2 photographs could not be opened" in told and "'305.bmp': not a photo" in told
    draw(images / "305.bmp", 5)  # mended: it alone is asked about again
    before = sum(asked)
    assert run() == 0 and sum(asked) == before + 1


def test_too_few_photographs_are_an_error(run, asked, data, tmp_path, capsys):
    for path in next(data.rglob("Images")).glob("*.bmp"):
        if path.name != "303.bmp":
            path.write_bytes(b"no photograph")
    code = run()
    assert "39 photographs could not be opened" in (told := capsys.readouterr()).out
    assert code == 2 and "realqa: split all: 1 of 40 photographs could be opened" in told.err
    assert (tmp_path / "out" / "scores.csv").exists()


def test_missing_photographs_are_refused_or_left_out(run, asked, data, capsys, tmp_path):
    (next(data.rglob("Images")) / "305.bmp").unlink()
    refused(capsys, run(), "--present-only does without them")
    assert run("--present-only") == 0
    told = capsys.readouterr().out
    assert f"{COUNT - 1} of {COUNT} photographs, not the set's result" in told
    assert len(pd.read_csv(tmp_path / "out" / "scores.csv")) == COUNT - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--set liveq", "unknown set 'liveq': did you mean 'livec'?"),
        ("--set konvid", "notebook 10"),
        ("--protocol official", "livec: unknown protocol 'official'"),
        ("--data nowhere", "nowhere: no such folder"),
    ],
)
def test_what_is_not_there_is_one_line(run, asked, tmp_path, capsys, change, message):
    refused(capsys, run(*change.split()), message)
    assert not (tmp_path / "out").exists() and not asked


def test_a_model_or_adapter_that_is_not_there_is_one_line(run, tmp_path, capsys, model):
    refused(capsys, run("--model", str(tmp_path / "gone")), "gone holds no config.json")
    refused(capsys, run("--model", "nobody/nothing"), "model nobody/nothing: ")
    gone = str(tmp_path / "gone")
    other = ("--model", model)
    refused(
        capsys, run(*other, "--adapter", gone, out="b"), "gone holds no adapter_model.safetensors"
    )
    refused(capsys, run(*other, "--adapter", "nobody/nothing", out="b"), "the hub gave no adapter")


def test_a_wrong_adapter_is_found_before_a_model_is_loaded(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate_command.taught, "base", lambda *_: pytest.fail("was loaded"))
    given = run("--model", "mini", "--adapter", str(tmp_path / "gone"))
    refused(capsys, given, "gone holds no adapter_model.safetensors")


@pytest.mark.parametrize(
    "change", ["--limit 1", "--batch-size 0", "--digits 7", "--pixels big", "--form chain"]
)
def test_options_out_of_range(run, capsys, change):
    with pytest.raises(SystemExit) as stop:
        run(*change.split())
    assert stop.value.code == 2
    assert change.split()[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.realdata
def test_the_real_set_by_a_model_that_knows_nothing(real_file, tiny_backbone, tmp_path, capsys):
    folder = real_file("livec/ChallengeDB_release")
    tiny_backbone.save(tmp_path / "model", torch.float32)
    given = ["--set", "livec", "--protocol", "random", "--data", str(folder), "--limit", "4"]
    given += ["--model", str(tmp_path / "model"), "--pixels", "as-is", "--out", str(tmp_path)]
    assert cli.main(["evaluate", *given]) == 0
    assert "first 20 of 1160 photographs, not the set's result" in capsys.readouterr().out
