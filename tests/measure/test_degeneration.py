"""Repetition against literal counts, and what is warned of."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import build

from rarefy.measure.degeneration import (
    Continuation,
    Speech,
    degeneration,
    distinct,
    longest_run,
    loops,
    speak,
)

texts = st.lists(st.integers(0, 2), max_size=14)


def literal_longest_run(ids):
    """Over all stretches: is there a period, no more than half as long, with which it repeats?"""
    longest = 0
    for start, end in itertools.combinations(range(len(ids) + 1), 2):
        stretch = ids[start:end]
        for period in range(1, len(stretch) // 2 + 1):
            if all(stretch[i] == stretch[i - period] for i in range(period, len(stretch))):
                longest = max(longest, len(stretch))
    return longest


@given(texts)
def test_longest_run_is_the_literal_one(ids):
    assert longest_run(ids) == literal_longest_run(ids)


@given(texts, st.lists(st.integers(0, 2), min_size=2, max_size=5))
def test_a_phrase_said_three_times_at_the_end_is_a_loop(ids, phrase):
    assert loops(ids + phrase * 3)
    assert not loops([*ids, *phrase * 3, 9])


def test_what_is_no_loop():
    assert not loops([])
    assert not loops([1, 1, 1])  # one token three times: an ellipsis
    assert loops([1] * 6)
    assert not loops([1, 2, 1, 2])
    assert not loops([1, 2, 3, 1, 2, 4, 1, 2, 5])  # a list with the same words


def test_distinct():
    assert distinct([1, 2, 1, 2, 1], 1) == pytest.approx(2 / 5)
    assert distinct([1, 2, 1, 2, 1], 2) == pytest.approx(2 / 4)
    assert distinct([1, 2], 3) == 1.0


def speech(*continuations, limit=20):
    return Speech(tuple(Continuation("p", tuple(ids), ended, "t") for ids, ended in continuations), limit)


FINE, LOOP = (list(range(20)), False), ([5, 6] * 10, False)
ENDS = (list(range(12)), True)


def test_totals():
    found = speech(FINE, LOOP, ENDS)
    assert (found.loops, found.ended, found.tokens, found.longest_run) == (1, 1, 52, 20)
    assert found.distinct(1) == pytest.approx((1 + 2 / 20 + 1) / 3)
    said = found.as_json()
    assert [text["loops"] for text in said["texts"]] == [False, True, False]
    assert said["texts"][2]["ended"]
    assert said["texts"][1]["distinct"] == pytest.approx([2 / 20, 2 / 19, 2 / 18, 2 / 17])


@pytest.mark.parametrize(
    ("network", "original", "told"),
    [
        (speech(FINE, ENDS), speech(FINE, ENDS), []),
        (speech(LOOP, FINE), speech(FINE, LOOP), []),
        (speech(LOOP, FINE), speech(FINE, FINE), []),
        (speech(LOOP, LOOP), speech(FINE, FINE), ["x falls into loops in 2 of 2 texts, the original in 0"]),
        (speech(LOOP, LOOP), speech(FINE, LOOP), []),
        (
            speech(FINE, FINE, ENDS),
            speech(ENDS, ENDS, ENDS),
            ["x does not end 2 of the 3 texts that the original ends"],
        ),
        (speech(ENDS, FINE), speech(ENDS, ENDS), []),
        (speech(([1], True), ([2], True)), speech(FINE, ENDS), ["x writes 2 tokens where the original writes 32"]),
        (speech(LOOP, LOOP, FINE), None, ["x falls into loops in 2 of 3 texts"]),
        (speech(LOOP, FINE), None, []),
    ],
)
def test_what_is_warned_of(network, original, told):
    assert degeneration("x", network, original) == told


class Words:
    """A tokenizer whose words are the ids."""

    chat_template = None
    eos_token_id = 2

    def __call__(self, text, **_):
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


def test_speaking_is_the_greedy_loop_written_out():
    module = build("llama")
    found = speak(module, Words(), ["5 6 7", "9"], tokens=10)
    for each in found.continuations:
        ids = [int(word) for word in each.prompt.split()]
        expected = []
        while len(expected) < 10 and 2 not in expected:
            expected.append(int(module(torch.tensor([ids + expected])).logits[0, -1].argmax()))
        assert list(each.ids) == [token for token in expected if token != 2]
        assert each.ended == (2 in expected)
        assert each.text == " ".join(map(str, each.ids))
    assert found.limit == 10
