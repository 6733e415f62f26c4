"""What a model reads and what a step of its training gives, to be compared between devices."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pandas as pd
import pytest
import torch
from transformers import TrainingArguments

from realqa_utils.forms.chains import REGULAR
from realqa_utils.forms.conversations import DIRECT, MIX
from realqa_utils.images.views import View
from realqa_utils.model import adapters, decoder, prompting, quantised
from realqa_utils.model.backbone import Backbone
from realqa_utils.ncm import NCM, NCMCallback
from realqa_utils.number_sorting import number_sorters, sorting
from realqa_utils.scoring import decoding, digit_tree, form_filling
from realqa_utils.training import level_words, regression_head
from realqa_utils.training.answer_trainer import AnswerTrainer
from realqa_utils.training.fine_tuning import Collator, arguments
from realqa_utils.training.level_words import Levels
from realqa_utils.training.recipes import Recipe


def loud(backbone: Backbone) -> Backbone:
    """A copy with larger random weights, so that what is said depends on what is seen."""
    backbone = replace(backbone, model=deepcopy(backbone.model), prompts={})
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.1 if "embed_tokens" in name else 0.08, generator=noise)
    return backbone


# --- reading -------------------------------------------------------------------------------------


def said(texts) -> pd.DataFrame:
    return pd.DataFrame({"text": texts})


def filled(backbone, images, form) -> pd.DataFrame:
    rows = []
    for one in form_filling.fill(backbone, images, form, max_text_tokens=8):
        score = {} if one.reading is None else {"score": one.reading.expected}
        mass = {f"{n} {i}": p for n, ps in one.probabilities.items() for i, p in enumerate(ps)}
        rest = {f"{name} else": p for name, p in one.off_format.items()}
        rows.append({"text": one.text, "left": one.left} | mass | rest | score)
    return pd.DataFrame(rows)


ASKED = [DIRECT.question, "What is in this photograph?", DIRECT.question]
WAYS = {
    "digit tree": lambda b, images: digit_tree.as_frame(digit_tree.read(b, images)),
    "greedy digits": lambda b, images: digit_tree.as_frame(digit_tree.read(b, images, tree=False)),
    "form of stage 1": lambda b, images: filled(b, images, MIX),
    "chain of thought": lambda b, images: filled(b, images, REGULAR),
    "free answers": lambda b, images: said(decoder.generate(b, ASKED, images, 8)),
    "the library's": lambda b, images: said(b.generate(ASKED, images, 8)),
    "sampled": lambda b, images: said(decoding.generate(b, ASKED, images, 8, "sampled")),
    "level words": lambda b, images: level_words.read(b, images, Levels(0, 10)),
    "last logits": lambda b, images: pd.DataFrame(
        prompting.last_logits(b, images, DIRECT.question, DIRECT.before).numpy()
    ),
    "numbers sorted": lambda b, images: said(
        number_sorters.checkpoint(b, 8)([sorting.question(["1.2", "3.4"]), "And?"])
    ),
    "image tokens": lambda b, images: pd.DataFrame(b.look(images)[0].cpu().numpy()),
    "loss": lambda b, images: pd.DataFrame(
        [quantised._loss(b, images, [DIRECT.answer(s, 2) for s in (1, 2, 3)], DIRECT)]
    ),
}


# --- training ------------------------------------------------------------------------------------

BASE = Recipe(steps=1, batch_size=4, language="full", vision="full", dropout=0.0)
RECIPES = {
    "digits": BASE,
    "frozen tower": replace(BASE, vision="frozen"),
    "soft digits and NCM": replace(BASE, opinion_spread=0.5, expectation_weight=1.0),
    "number tokens": replace(BASE, number_token_weight=1.0),
    "soft level words": replace(BASE, objective="level_words", opinion_spread=1.0),
    "regression": replace(BASE, objective="regression"),
    "tree of 1": replace(BASE, objective="tree_mean", digits=1),
    "tree of 2": replace(BASE, objective="tree_mean", digits=2),
    "LoRA": replace(BASE, language="lora", vision="lora", rank=4, alpha=8),
}


def step(backbone, table, recipe, folder, heard: list):
    """Loss and gradients (all in one) of a step by the `Trainer`, and the NCM that it hears of."""
    device = backbone.model.device
    metric = NCMCallback(NCM.of(backbone.tokenizer, DIRECT, digits=3))
    metric.due = True
    if recipe.objective == "regression":
        backbone = regression_head.attach(backbone, 5.0, 0)
    prepared = adapters.prepare(
        backbone, recipe.language, recipe.vision, recipe.rank, recipe.alpha, recipe.dropout
    )
    trainer = AnswerTrainer(
        model=torch.nn.Linear(1, 1),  # which a Trainer would put on its own device
        args=arguments(recipe, folder, 0, False),
        callbacks=[metric],
        recipe=recipe,
        digit_ids=backbone.digit_ids,
    )
    batch = Collator(prepared, table, recipe, View())(range(4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingArguments, "device", device)
        batch = trainer._prepare_inputs(batch)
    loss = trainer.compute_loss(prepared.model.train(), batch)
    loss.backward()
    if recipe.objective == "next_token":
        train = metric.metrics["train"]
        heard += train.numbers_of(*train.sums_of(metric.heard))
    grads = [p.grad.cpu().flatten() for p in prepared.model.parameters() if p.grad is not None]
    return loss.detach().cpu(), torch.cat(grads)
