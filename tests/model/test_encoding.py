"""Token batches: what is supervised, where the photograph stands, which position a token has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realqa_utils.forms import scores
from realqa_utils.forms.conversations import DIRECT, Form
from realqa_utils.model.encoding import IGNORED, digit_tokens, encode, encode_prompt

GRIDS = [(1, 8, 8), None, (1, 4, 12), (1, 10, 6)]  # patches; 16, 0, 12 and 15 image tokens
ANSWERS = ["The score of this image is 3.99.", "4", "", "1. Reason: it is dark,\nand so <0.50>."]
QUESTIONS = [DIRECT.question, "Hello", "Describe this photo.", "Why?\nSay it in one line."]
FORMS = [DIRECT, Form("bracket", "?", "1.2 Composition Score: 7, 2.5. Final: <", ">.")]


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def conversation(backbone, question: str, answer: str, grid) -> list[int]:
    """Ids of a whole conversation by the chat template, up to and with its end token."""
    tokenizer = backbone.tokenizer
    said = [{"type": "image"}] * bool(grid) + [{"type": "text", "text": question}]
    messages = [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    if grid:
        text = text.replace("<|image_pad|>", "<|image_pad|>" * (grid[1] * grid[2] // 4))
    return ids(tokenizer, text.removesuffix("\n"))


def own(batch: dict, key: str, row: int) -> torch.Tensor:
    """What a row has under a key, without the padding."""
    values = batch[key][..., row, :]
    return values[..., batch["attention_mask"][row].bool()]


# --- tokens and labels -------------------------------------------------------------------------


@pytest.mark.parametrize("shift", range(4))
def test_labels_are_the_answer_and_its_end_and_nothing_else(tiny_backbone, shift):
    answers = ANSWERS[shift:] + ANSWERS[:shift]
    batch = encode(tiny_backbone, QUESTIONS, answers, GRIDS)
    for row, answer in enumerate(answers):
        taught = batch["labels"][row] != IGNORED
        text = tiny_backbone.tokenizer.decode(batch["labels"][row][taught])
        assert text == answer + "<|im_end|>"
        assert torch.equal(batch["labels"][row][taught], batch["input_ids"][row][taught])
        assert (batch["attention_mask"][row][taught] == 1).all()
        assert own(batch, "labels", row)[-1] == tiny_backbone.tokenizer.eos_token_id


def test_a_row_is_the_whole_conversation_in_chat_form(tiny_backbone):
    batch = encode(tiny_backbone, QUESTIONS, ANSWERS, GRIDS)
    for row, parts in enumerate(zip(QUESTIONS, ANSWERS, GRIDS, strict=True)):
        assert own(batch, "input_ids", row).tolist() == conversation(tiny_backbone, *parts)


@settings(max_examples=60)
@given(answer=st.text(st.characters(codec="ascii"), max_size=30), grid=st.sampled_from(GRIDS))
@example(answer=" 3.99", grid=None)
def test_answers_join_their_prompt_as_in_one_text(tiny_backbone, answer, grid):
    answer = answer.lstrip()  # a line break there would merge with the one before the answer
    batch = encode(tiny_backbone, ["Rate it."], [answer], [grid])
    expected = conversation(tiny_backbone, "Rate it.", answer, grid)
    assert batch["input_ids"][0].tolist() == expected


def test_placeholders_are_marked_and_as_many_as_merged_patches(tiny_backbone):
    batch = encode(tiny_backbone, QUESTIONS, ANSWERS, GRIDS)
    pads = batch["input_ids"] == tiny_backbone.model.config.image_token_id
    assert pads.sum(1).tolist() == [16, 0, 12, 15]
    assert torch.equal(batch["mm_token_type_ids"], pads.long())
    assert batch["image_grid_thw"].tolist() == [list(g) for g in GRIDS if g]


def test_without_photographs_there_are_no_grids(tiny_backbone):
    batch = encode(tiny_backbone, QUESTIONS, ANSWERS, [None] * 4)
    assert "image_grid_thw" not in batch
    assert not batch["mm_token_type_ids"].any()


def test_shapes(tiny_backbone):
    batch = encode(tiny_backbone, QUESTIONS, ANSWERS, GRIDS)
    rows, width = batch["input_ids"].shape
    assert rows == 4 and width == batch["attention_mask"].sum(1).max()
    assert batch["position_ids"].shape == (3, 4, width)
    for key in ("attention_mask", "mm_token_type_ids", "labels"):
        assert batch[key].shape == (4, width) and batch[key].dtype == torch.long


def test_lists_of_different_lengths_are_refused(tiny_backbone):
    with pytest.raises(ValueError):
        encode(tiny_backbone, QUESTIONS, ANSWERS, GRIDS[:3])
    with pytest.raises(ValueError):
        encode(tiny_backbone, QUESTIONS, ANSWERS[:3], GRIDS)


# --- padding -----------------------------------------------------------------------------------


def test_training_pads_on_the_right_and_answering_on_the_left(tiny_backbone):
    taught = encode(tiny_backbone, QUESTIONS, ANSWERS, GRIDS)["attention_mask"]
    asked = encode(tiny_backbone, QUESTIONS, None, GRIDS)["attention_mask"]
    begun = encode(tiny_backbone, QUESTIONS, ANSWERS, GRIDS, end=False)["attention_mask"]
    assert (taught.diff(dim=1) <= 0).all() and (taught == 0).any()
    for left in (asked, begun):
        assert (left.diff(dim=1) >= 0).all() and (left == 0).any()


def test_padding_is_the_pad_token_and_never_supervised(tiny_backbone):
    for answers, end in ((ANSWERS, True), (ANSWERS, False), (None, True)):
        batch = encode(tiny_backbone, QUESTIONS, answers, GRIDS, end=end)
        padding = batch["attention_mask"] == 0
        assert (batch["input_ids"][padding] == tiny_backbone.tokenizer.pad_token_id).all()
        assert (batch["labels"][padding] == IGNORED).all()
        assert (batch["mm_token_type_ids"][padding] == 0).all()


def test_the_side_of_the_padding_changes_no_row(tiny_backbone):
    right = encode(tiny_backbone, QUESTIONS, ANSWERS, GRIDS)
    left = encode(tiny_backbone, QUESTIONS, ANSWERS, GRIDS, end=False)
    for row in range(4):
        for key in ("input_ids", "mm_token_type_ids", "labels", "position_ids"):
            whole = own(right, key, row)[..., :-1]  # but for the end token
            assert torch.equal(own(left, key, row), whole), key


def test_questions_end_where_the_answer_begins(tiny_backbone):
    batch = encode(tiny_backbone, QUESTIONS, None, GRIDS)
    for row in range(4):
        text = tiny_backbone.tokenizer.decode(own(batch, "input_ids", row))
        assert text.endswith(f"{QUESTIONS[row]}<|im_end|>\n<|im_start|>assistant\n")
    assert (batch["labels"] == IGNORED).all()


# --- positions ---------------------------------------------------------------------------------


def test_positions_by_hand(tiny_backbone):
    """2 x 3 image tokens after t tokens: time t; rows t, t + 1; columns t .. t + 2; then t + 3."""
    batch = encode(tiny_backbone, ["Hello"], ["4"], [(1, 4, 6)])
    (places,) = batch["mm_token_type_ids"].nonzero()[:, 1].split(6)
    t, width = int(places[0]), batch["input_ids"].shape[1]
    positions = batch["position_ids"][:, 0]
    assert torch.equal(positions[:, :t], torch.arange(t).expand(3, -1))
    seen = [[t] * 6, [t] * 3 + [t + 1] * 3, [t, t + 1, t + 2] * 2]
    assert positions[:, t : t + 6].tolist() == seen
    assert torch.equal(positions[:, t + 6 :], t + 3 + torch.arange(width - t - 6).expand(3, -1))


@pytest.mark.parametrize("answers, end", [(ANSWERS, True), (ANSWERS, False), (None, True)])
def test_positions_are_those_of_the_model_for_the_whole_batch(tiny_backbone, answers, end):
    batch = encode(tiny_backbone, QUESTIONS, answers, GRIDS, end=end)
    expected, _ = tiny_backbone.model.model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )
    seen = batch["attention_mask"].bool()
    assert torch.equal(batch["position_ids"][:, seen], expected[:, seen])


@torch.no_grad()
@pytest.mark.parametrize("end", [True, False])
def test_a_row_means_the_same_alone_and_in_a_padded_batch(tiny_backbone, end):
    chance = torch.Generator().manual_seed(0)
    pixels = [torch.randn(g[1] * g[2] if g else 0, 1176, generator=chance) for g in GRIDS]

    def logits(rows):
        parts = ([x[row] for row in rows] for x in (QUESTIONS, ANSWERS, GRIDS))
        batch = encode(tiny_backbone, *parts, end=end)
        seen = torch.cat([pixels[row] for row in rows])
        out = tiny_backbone.model(**batch, pixel_values=seen if len(seen) else None).logits
        return [out[i][batch["attention_mask"][i].bool()] for i in range(len(rows))]

    together = logits([0, 1, 2])
    for row in range(3):
        torch.testing.assert_close(together[row], logits([row])[0], atol=1e-4, rtol=0)


# --- prompts -----------------------------------------------------------------------------------


def test_a_prompt_is_worked_out_once(tiny_backbone):
    first = encode_prompt(tiny_backbone, "Once?", (1, 8, 8))
    assert encode_prompt(tiny_backbone, "Once?", (1, 8, 8)) is first
    others = [("Once?", None), ("Once?", (1, 4, 4)), ("Twice?", (1, 8, 8))]
    lengths = {len(encode_prompt(tiny_backbone, *other).ids) for other in others}
    assert len(lengths) > 1 and encode_prompt(tiny_backbone, *others[2]) is not first


@pytest.mark.parametrize("grid", GRIDS)
def test_the_answer_follows_the_last_position_of_the_prompt(tiny_backbone, grid):
    prompt = encode_prompt(tiny_backbone, "Rate it.", grid)
    assert prompt.following == int(prompt.positions.max()) + 1
    assert prompt.positions.shape == (3, len(prompt.ids)) and prompt.kinds.shape == prompt.ids.shape


# --- digits ------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    form=st.sampled_from(FORMS),
    score=st.floats(0, 10, allow_nan=False),
    digits=st.integers(1, 4),
)
def test_digit_tokens_are_the_digits_of_the_score(tiny_tokenizer, form, score, digits):
    answer = form.answer(score, digits)
    places = digit_tokens(tiny_tokenizer, answer, form.score_span(answer))
    tokens = [ids(tiny_tokenizer, answer)[place] for place in places]
    written = tiny_tokenizer.convert_ids_to_tokens(tokens)
    assert written == [str(d) for d in scores.digits_of(score, digits)]


def test_digit_tokens_by_hand(tiny_tokenizer):
    answer = "4 of 5: <6.59>."
    pieces = tiny_tokenizer.tokenize(answer)
    start = answer.index("6")
    places = digit_tokens(tiny_tokenizer, answer, (start, start + 4))
    assert [pieces[p] for p in places] == ["6", "5", "9"]
    assert digit_tokens(tiny_tokenizer, answer, (start, start + 3)) == places[:2]
    assert digit_tokens(tiny_tokenizer, answer, (1, 4)) == []


def test_digit_tokens_point_into_the_labels(tiny_backbone):
    answer = DIRECT.answer(3.99, 3)
    batch = encode(tiny_backbone, [DIRECT.question], [answer], [(1, 8, 8)])
    taught = batch["labels"][0][batch["labels"][0] != IGNORED]
    places = digit_tokens(tiny_backbone.tokenizer, answer, DIRECT.score_span(answer))
    assert tiny_backbone.tokenizer.convert_ids_to_tokens(taught[places].tolist()) == list("399")
