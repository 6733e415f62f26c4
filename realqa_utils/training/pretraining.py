"""How the mini backbone is made: `realqa pretrain`. Nothing but the mini world goes in.

1. The tokenizer is trained on the kit's own texts.
2. The vision tower starts from a 2-D DCT patch embedding (a transformer of this size never finds
   spatial frequencies by itself) and is trained with dense heads on the drawn attributes and on
   the spectra of patches, which need no labels.
3. The language side learns captions, number text and single words on top of the frozen tower.

The hidden quality and the MOS are never shown: scores are for fine-tuning to teach.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np
import torch
from scipy.fft import idctn
from torch import nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from realqa_utils.datasets import mini, subjects
from realqa_utils.forms import captions, taxonomy
from realqa_utils.forms.conversations import MIX, vocabulary_texts
from realqa_utils.model import language, vision
from realqa_utils.model.backbone import MINI_FOLDER, Backbone, as_images, load, new_mini
from realqa_utils.model.encoding import IGNORED, encode
from realqa_utils.model.tokenizer import train_tokenizer
from realqa_utils.parallel import run_all
from realqa_utils.records.results import write_json
from realqa_utils.training import optimisers
from realqa_utils.training.adaptation import SpectraHeads, image_tokens

SPECTRA_WEIGHT = 2.0  # of the error of the spectra beside the sum of eleven cross entropies
VOCABULARY = 900  # bytes and merges: everything the kit says, in whole words
WORDS = {
    "subject": [s for painters in subjects.PAINTERS.values() for s in painters],
    "background": list(subjects.SURFACES),
}


def scene_labels(seed: int, index: int) -> dict[str, object]:
    return mini.labels(mini.scene_at(_domain(index), seed, index))


def _domain(index: int) -> str:
    return list(mini.DOMAINS)[index % len(mini.DOMAINS)]


def _photograph(job: tuple[int, int]) -> np.ndarray:
    seed, index = job
    return np.asarray(mini.photograph(_domain(index), seed, index))


def world(seed: int, count: int, workers: int) -> tuple[np.ndarray, list[dict]]:
    """`count` scenes of all domains in turn: uint8 (count, 112, 112, 3) and their labels."""
    jobs = [(seed, index) for index in range(count)]
    images = np.stack(run_all(_photograph, jobs, workers, "drawing scenes", batch=32))
    return images, [scene_labels(seed, index) for index in range(count)]


def class_ids(labels: list[dict]) -> dict[str, torch.Tensor]:
    """Every attribute as class indices (n,): scores from 0, tiers, positions in the word lists."""
    ids = {}
    for name in taxonomy.SCORED:
        values = torch.tensor([int(row[name]) for row in labels])
        ids[name] = values - 1 if taxonomy.BY_NAME[name].kind == "score" else values
    for name, words in WORDS.items():
        ids[name] = torch.tensor([words.index(row[name]) for row in labels])
    return ids


def class_counts() -> dict[str, int]:
    counts = {
        n: 10 if taxonomy.BY_NAME[n].kind == "score" else len(taxonomy.BY_NAME[n].tiers)
        for n in taxonomy.SCORED
    }
    return counts | {name: len(words) for name, words in WORDS.items()}


def dct_patch_embedding(model: nn.Module, pixels: torch.Tensor) -> None:
    """Set the patch embedding to DCT waves, each scaled to unit variance on `pixels` (n, d).

    Of the channels, 20 see the lowest frequencies of two colour differences, the rest see
    luminance: its frequencies from low to high. Unit variance lifts the high ones, which are
    weak in natural images and carry blur and noise.
    """
    weight = model.model.visual.patch_embed.proj.weight  # (out, colour, time, y, x)
    out, _, frames, side, _ = weight.shape
    order = sorted(np.ndindex(side, side), key=lambda f: (f[0] ** 2 + f[1] ** 2, f))
    colours = [((1, -1, 0), order[:10]), ((0.5, 0.5, -1), order[:10])]
    chosen = np.linspace(0, len(order) * 0.8, out - 20).astype(int)  # beyond it is only noise
    colours.append(((1, 1, 1), [order[i] for i in chosen]))
    waves = []
    for mix, frequencies in colours:
        for frequency in frequencies:
            spectrum = np.zeros((side, side))
            spectrum[frequency] = 1
            wave = idctn(spectrum, norm="ortho")[None, None].repeat(frames, 1)
            waves.append(np.array(mix)[:, None, None, None] * wave)
    basis = torch.tensor(np.stack(waves), dtype=weight.dtype, device=weight.device)
    spread = (pixels.to(weight.device) @ basis.flatten(1).T).std(0).clamp(min=1e-3)
    with torch.no_grad():
        weight.copy_(basis / spread.view(-1, 1, 1, 1, 1))


class DenseHeads(nn.Module):
    """One linear classifier per attribute on the mean image token; used only in pretraining."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({n: nn.Linear(width, k) for n, k in class_counts().items()})

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image tokens (batch, tokens, width) -> class logits of each attribute."""
        mean = self.norm(tokens.mean(1))
        return {name: head(mean) for name, head in self.heads.items()}


def train_vision(backbone: Backbone, images, labels, steps: int, batch: int, seed: int) -> None:
    """Dense heads on the image tokens: cross entropy of the attributes, error of the spectra."""
    generator = np.random.default_rng(seed)
    sample = generator.choice(len(images), min(512, len(images)), replace=False)
    pixels, _ = vision.patchify(images[sample], backbone.image_processor)
    dct_patch_embedding(backbone.model, pixels)
    visual = backbone.core.visual
    heads, targets = DenseHeads(backbone.width), backbone.to_device(class_ids(labels))
    textures = SpectraHeads(backbone.width, images[sample])
    parts = {"visual": visual, "heads": heads, "textures": textures}
    trained = nn.ModuleDict(parts).to(visual.device)
    optimiser = optimisers.muon(trained.named_parameters(), 1e-3, weight_decay=0.02)
    schedule = optimisers.cosine(optimiser, steps)
    progress = tqdm(range(steps), "vision tower", mininterval=5)
    smooth: dict[str, float] = {}
    for step in progress:
        rows = generator.choice(len(images), batch, replace=False)
        seen = _flip(images[rows], generator)
        tokens = image_tokens(backbone, seen)
        logits = heads(tokens)
        losses = [F.cross_entropy(logits[n], targets[n][rows]) for n in logits]
        texture = textures.loss(tokens, seen)
        total = sum(losses) + SPECTRA_WEIGHT * texture
        optimisers.take_step(total, trained.parameters(), optimiser, schedule)
        if step % 20 == 0:
            hits = {n: (logits[n].argmax(1) == targets[n][rows]).float().mean() for n in logits}
            smooth = {n: 0.9 * smooth.get(n, float(h)) + 0.1 * float(h) for n, h in hits.items()}
            shown = {n[:12]: f"{h:.2f}" for n, h in smooth.items()}
            progress.set_postfix(shown | {"spectra": f"{texture:.2f}"})


def _flip(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mirror a random half: no label of the mini world knows left from right."""
    mirrored = generator.uniform(size=len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def train_language(backbone: Backbone, images, labels, steps: int, batch: int, seed: int) -> None:
    """Captions on frozen image tokens, and lines of text without a photo, one batch of each."""
    generator = np.random.default_rng([seed, 1])
    model = backbone.model
    with torch.no_grad():
        parts = [image_tokens(backbone, images[i : i + 128]) for i in range(0, len(images), 128)]
    tokens = torch.cat(parts)
    words = _words(labels)
    learnt = [(n, p) for n, p in model.named_parameters() if "visual" not in n]
    optimiser = optimisers.muon(learnt, 1e-3, weight_decay=0.02)
    schedule = optimisers.cosine(optimiser, steps)
    progress = tqdm(range(steps), "language side", mininterval=5)
    for step in progress:
        rows = generator.choice(len(labels), batch, replace=False)
        pairs = [conversation(labels[row], generator) for row in rows]
        seen = caption_loss(backbone, tokens[rows], pairs)
        lines = [captions.number_text(generator) for _ in range(batch)]
        lines += [captions.word_text(words, generator) for _ in range(batch // 2)]
        read = _text_loss(backbone, lines)
        optimisers.take_step(seen + 0.5 * read, [p for _, p in learnt], optimiser, schedule)
        if step % 20 == 0:
            progress.set_postfix(captions=f"{seen:.3f}", lines=f"{read:.3f}")


def conversation(labels: dict, generator: np.random.Generator) -> tuple[str, str]:
    """A whole caption one time in three, else one of what is asked for."""
    if generator.uniform() < 1 / 3:
        return captions.QUESTION, captions.caption(labels)
    return captions.guided_caption(labels, generator)


def _words(labels: list[dict]) -> list[str]:
    """Every word that a conversation of the kit can hold."""
    texts = [*vocabulary_texts(), *(MIX.answer(row) for row in labels[:500])]
    return sorted({word for text in texts for word in re.findall(r"[A-Za-z-]+|[<>]", text)})


def caption_loss(
    backbone: Backbone, tokens: torch.Tensor, pairs: list[tuple[str, str]]
) -> torch.Tensor:
    """Cross entropy of captions given requests and image tokens (batch, tokens, width)."""
    grid = (1, mini.SIZE // 14, mini.SIZE // 14)
    questions, texts = zip(*pairs, strict=True)
    seen = BaseModelOutputWithPooling(pooler_output=tuple(tokens))
    inputs = {"mm_encoder_outputs": {"image": seen}}
    return answer_loss(backbone, questions, texts, [grid] * len(pairs), **inputs)


def answer_loss(backbone: Backbone, questions, answers, grids, **inputs) -> torch.Tensor:
    """Cross entropy of the tokens of answers and of their ends; `inputs` are more of the model's.

    That of the model's own call, to rounding.
    """
    batch = backbone.to_device(encode(backbone, questions, answers, grids))
    labels = batch.pop("labels")
    columns = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()  # that predict
    out = language.forward(backbone.model, batch | inputs, columns, use_cache=False)
    return F.cross_entropy(out.logits.flatten(0, 1), labels[:, columns + 1].flatten())


def _text_loss(backbone: Backbone, texts: list[str]) -> torch.Tensor:
    """Every token of a line predicts the next; the padding is left out."""
    tokenizer = backbone.tokenizer
    lines = tokenizer([t + tokenizer.eos_token for t in texts], padding=True, return_tensors="pt")
    labels = lines.input_ids.masked_fill(lines.attention_mask == 0, -100)
    batch = backbone.to_device({"input_ids": lines.input_ids, "labels": labels})
    return backbone.model(**batch).loss


@torch.no_grad()
def caption_accuracy(backbone: Backbone, images, labels, batch: int = 128) -> list[dict]:
    """Free-running captions against the drawn scenes: accuracy per attribute, beside chance.

    Chance is the share of the most frequent phrase. A caption that does not mention an attribute
    counts as wrong, and `mentioned` says how often that was.
    """
    texts = []
    for i in range(0, len(images), batch):
        part = images[i : i + batch]
        questions = [captions.QUESTION] * len(part)
        texts += backbone.generate(questions, as_images(part), max_new_tokens=110)
    found = [captions.read_caption(text) for text in texts]
    rows = []
    for name in captions.PHRASES:
        truth = np.array([captions.phrase_index(name, row[name]) for row in labels])
        said = np.array([f.get(name, -1) for f in found])
        rows.append(
            {
                "attribute": name,
                "accuracy": float((said == truth).mean()),
                "chance": float(np.bincount(truth).max() / len(truth)),
                "mentioned": float((said >= 0).mean()),
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("realqa pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=MINI_FOLDER)
    parser.add_argument("--scenes", type=int, default=24_000)
    parser.add_argument("--vision-steps", type=int, default=2_000)
    parser.add_argument("--vision-batch", type=int, default=64)
    parser.add_argument("--language-steps", type=int, default=600)
    parser.add_argument("--language-batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--held-out-scenes", type=int, default=1_200, help="to judge by")
    parser.add_argument("--note", default="", help="for the record")
    parser.add_argument("--vision-from", type=Path, help="keep the tower of this folder")
    options = parser.parse_args(arguments)
    started = time.time()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    images, labels = world(options.seed, options.scenes, options.threads)
    backbone = new_mini(_tokenizer(labels, options.seed))
    tower = options.vision_from or options.out
    if not options.vision_from:
        batch = options.vision_batch
        train_vision(backbone, images, labels, options.vision_steps, batch, options.seed)
        backbone.save(tower)
    # As it was saved, in float16: the second stage is the same whether or not it runs alone.
    saved = load(tower).model.model.visual.state_dict()
    backbone.model.model.visual.load_state_dict(saved)
    batch = options.language_batch
    train_language(backbone, images, labels, options.language_steps, batch, options.seed)
    backbone.save(options.out)
    record = {k: v for k, v in vars(options).items() if k not in ("out", "vision_from", "threads")}
    stages = "language only; the tower was trained before" if options.vision_from else "both"
    record |= {"stages": stages, "seconds": round(time.time() - started)}
    _record(options.out, record, options.threads)


def _tokenizer(labels: list[dict], seed: int):
    rng = np.random.default_rng([seed, 2])
    pairs = [captions.guided_caption(row, rng) for row in labels[:2000]]
    said = [captions.caption(row) for row in labels[:2000]]
    said += [text for pair in pairs for text in pair]
    numbers = [captions.number_text(rng) for _ in range(2000)]
    answers = [MIX.answer(row) for row in labels[:500]]
    return train_tokenizer([*said, *numbers, *answers, *vocabulary_texts() * 50], VOCABULARY)


def _record(folder: Path, options: dict, workers: int) -> None:
    """Judge the saved weights on scenes that training never saw, and write the record."""
    images, labels = world(10_007, options["held_out_scenes"], workers)
    accuracy = caption_accuracy(load(folder), images, labels)
    record = {
        "command": "realqa pretrain",
        "world": mini.world_version(),
        "data": "generated scenes of the mini world, all six domains in turn",
        **options,
        "caption_accuracy": accuracy,
    }
    write_json(folder / "record.json", record)
    print(json.dumps(accuracy, indent=1))
