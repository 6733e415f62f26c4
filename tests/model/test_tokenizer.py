"""The tokenizer of the mini backbone: digits one by one, Qwen2-VL's chat form, safe on disk."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from realqa_utils.forms.conversations import DIRECT, vocabulary_texts
from realqa_utils.forms.scores import digit_ids
from realqa_utils.model.tokenizer import SPECIAL_TOKENS, train_tokenizer

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
PHOTO = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def reloaded(tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


# --- digits and words --------------------------------------------------------------------------


def test_a_score_is_one_token_per_digit(tiny_tokenizer):
    assert tiny_tokenizer.tokenize("3.99") == ["3", ".", "9", "9"]
    assert tiny_tokenizer.tokenize("is 10.05")[-5:] == ["1", "0", ".", "0", "5"]


def test_digit_ids_are_found(tiny_tokenizer):
    found = digit_ids(tiny_tokenizer)
    assert tiny_tokenizer.convert_ids_to_tokens(found) == list("0123456789")


@given(number=st.integers(0, 10**9), after=st.sampled_from(["", ".", ">", " of", "th"]))
def test_no_number_is_ever_merged(tiny_tokenizer, number, after):
    tokens = tiny_tokenizer.tokenize(f"Score: {number}{after}")
    digits = [t for t in tokens if any(c.isdigit() for c in t)]
    assert digits == list(str(number))


def test_digits_stay_single_however_often_a_number_occurs():
    tokenizer = train_tokenizer(["the score is 3.99 2025 2025"] * 500, 400)
    assert tokenizer.tokenize("2025") == ["2", "0", "2", "5"]
    assert tokenizer.tokenize("the score") == ["the", "Ġscore"]


def test_words_that_it_was_trained_on_are_few_tokens(tiny_tokenizer):
    answer = DIRECT.answer(3.99, 3)
    assert len(ids(tiny_tokenizer, answer)) < 0.6 * len(answer)


@given(text=st.text(st.characters(codec="ascii"), max_size=40))
def test_any_ascii_text_comes_back(tiny_tokenizer, text):
    assert tiny_tokenizer.decode(ids(tiny_tokenizer, text)) == text


@pytest.mark.parametrize("text", ["Größe 4", "照片 5 分", "🙂\u00a0"])
def test_text_in_any_script_comes_back(tiny_tokenizer, text):
    assert tiny_tokenizer.decode(ids(tiny_tokenizer, text)) == text


def test_the_size_counts_bytes_and_merges():
    tokenizer = train_tokenizer(vocabulary_texts(), 300)
    assert len(tokenizer) == 300 + len(SPECIAL_TOKENS)


def test_training_twice_gives_the_same_tokenizer():
    twice = [train_tokenizer(vocabulary_texts(), 400) for _ in range(2)]
    assert twice[0].get_vocab() == twice[1].get_vocab()
    assert ids(twice[0], DIRECT.question) == ids(twice[1], DIRECT.question)


# --- special tokens and the chat form ----------------------------------------------------------


def test_special_tokens_are_one_token_each_and_differ(tiny_tokenizer):
    found = [ids(tiny_tokenizer, token) for token in SPECIAL_TOKENS]
    assert all(len(f) == 1 for f in found)
    assert len({f[0] for f in found}) == len(SPECIAL_TOKENS)
    assert tiny_tokenizer.decode([f[0] for f in found], skip_special_tokens=True) == ""


def test_end_and_padding_are_those_of_qwen2_vl(tiny_tokenizer):
    assert tiny_tokenizer.eos_token == "<|im_end|>"
    assert tiny_tokenizer.pad_token == "<|endoftext|>"
    assert tiny_tokenizer.eos_token_id != tiny_tokenizer.pad_token_id
    assert ids(tiny_tokenizer, "<|im_end|>") == [tiny_tokenizer.eos_token_id]


CONVERSATIONS = {
    "question with a photo": (
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Rate it."}]}],
        f"{SYSTEM}<|im_start|>user\n{PHOTO}Rate it.<|im_end|>\n",
    ),
    "question and answer in plain strings": (
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "4."}],
        f"{SYSTEM}<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n4.<|im_end|>\n",
    ),
    "a system message of one's own": (
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n",
    ),
    "two photos and a clip": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "image"},
                    {"type": "text", "text": "or "},
                    {"type": "image"},
                    {"type": "video"},
                ],
            }
        ],
        f"{SYSTEM}<|im_start|>user\n{PHOTO}or {PHOTO}"
        "<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n",
    ),
}


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_the_chat_form_is_that_of_qwen2_vl(tiny_tokenizer, case):
    messages, expected = CONVERSATIONS[case]
    assert tiny_tokenizer.apply_chat_template(messages, tokenize=False) == expected
    asked = tiny_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == expected + "<|im_start|>assistant\n"


# --- on disk -----------------------------------------------------------------------------------


def test_the_saved_tokenizer_is_the_same(tiny_tokenizer, reloaded):
    assert reloaded.get_vocab() == tiny_tokenizer.get_vocab()
    for name in ("eos_token_id", "pad_token_id", "model_max_length", "chat_template"):
        assert getattr(reloaded, name) == getattr(tiny_tokenizer, name)
    assert digit_ids(reloaded) == digit_ids(tiny_tokenizer)


@settings(max_examples=40)
@given(text=st.text(max_size=20) | st.sampled_from([*vocabulary_texts(), SYSTEM + PHOTO]))
def test_the_saved_tokenizer_gives_the_same_ids(tiny_tokenizer, reloaded, text):
    assert ids(reloaded, text) == ids(tiny_tokenizer, text)


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_the_saved_tokenizer_has_the_chat_form(tiny_tokenizer, reloaded, case):
    messages, expected = CONVERSATIONS[case]
    assert reloaded.apply_chat_template(messages, tokenize=False) == expected
    assert reloaded.tokenize(expected) == tiny_tokenizer.tokenize(expected)
