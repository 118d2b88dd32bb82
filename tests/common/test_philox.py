"""Philox4x32-10 against published answers and a plain reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metafast import _core

# Random123's tests/kat_vectors, the lines "philox4x32 10": counter, key, answer.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return [int(word, 16) for word in text.split()]


def reference(counter, key):
    """Salmon et al. 2011, section 3.3, in whole numbers of any size."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k0, right % 2**32, (left >> 32) ^ d ^ k1, left % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [a, b, c, d]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(isa, counter, key, answer):
    # 40 equal rows: the vectors and the remainder.
    counters = np.tile(np.array(words(counter), np.uint32), (40, 1))
    keys = np.tile(np.array(words(key), np.uint32), (40, 1))
    np.testing.assert_array_equal(_core.philox(counters, keys), np.tile(words(answer), (40, 1)))
    assert reference(words(counter), words(key)) == words(answer)


@given(st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 6), min_size=1, max_size=40))
def test_equals_the_plain_reference(rows):
    table = np.array(rows, np.uint32)
    result = _core.philox(table[:, :4].copy(), table[:, 4:].copy())
    np.testing.assert_array_equal(result, [reference(row[:4], row[4:]) for row in rows])


def test_uniform_takes_27_and_26_bits(isa):
    high, low = np.random.default_rng(0).integers(0, 2**32, (2, 1001), dtype=np.uint64)
    high[:3], low[:3] = [0, 2**32 - 1, 2**31], [0, 2**32 - 1, 0]
    expected = ((high >> np.uint64(5)) * 2.0**26 + (low >> np.uint64(6))) * 2.0**-53
    result = _core.uniform(np.stack([high, low], axis=1).astype(np.uint32))
    np.testing.assert_array_equal(result, expected)
    assert result[0] == 0.0
    assert result[1] == 1.0 - 2.0**-53


def test_unfit_shapes_are_refused():
    with pytest.raises(ValueError, match=r"counters must have shape \[rows, 4\]"):
        _core.philox(np.zeros((2, 3), np.uint32), np.zeros((2, 2), np.uint32))
    with pytest.raises(ValueError, match=r"keys must have shape \[rows, 2\]"):
        _core.philox(np.zeros((2, 4), np.uint32), np.zeros((3, 2), np.uint32))
    with pytest.raises(ValueError, match=r"words must have shape \[count, 2\]"):
        _core.uniform(np.zeros((2, 3), np.uint32))
