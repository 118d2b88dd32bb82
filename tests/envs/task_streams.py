"""The random numbers of the task distributions, anew in NumPy: what the tests replay environments with."""

import numpy as np

MASK = np.uint64(0xFFFFFFFF)


def philox(counter, key):
    """Salmon et al. 2011, section 3.3, on uint64 arrays [4, N] and [2, N] of 32-bit words."""
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    for _ in range(10):
        left, right = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b, c, d = (right >> np.uint64(32)) ^ b ^ k0, right & MASK, (left >> np.uint64(32)) ^ d ^ k1, left & MASK
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & MASK, (k1 + np.uint64(0xBB67AE85)) & MASK
    return np.stack([a, b, c, d])


def words(state, step, block):
    """The four words of a block, uint64 [4, N], in the current episode of a `get_state`; step and block may be [N]."""
    episodes = state["episodes"] - np.uint64(1)
    seeds = state["seeds"]
    ones = np.ones(len(seeds), np.uint64)
    counter = episodes & MASK, episodes >> np.uint64(32), ones * np.uint64(block), ones * np.asarray(step, np.uint64)
    return philox(counter, (seeds & MASK, seeds >> np.uint64(32)))


def uniform24(word):
    return (word >> np.uint64(8)).astype(np.float64) * 2.0**-24


def normal(radius_word, angle_word):
    """Box and Muller, from 31 bits of the first word and all of the second."""
    radius = np.sqrt(-2 * np.log(((radius_word >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-31))
    # Two bits choose the quadrant's axis, thirty the angle around it.
    offset = ((angle_word << np.uint64(2)) & MASK).astype(np.uint32).view(np.int32).astype(np.float64)
    quadrant = (angle_word >> np.uint64(30)).astype(np.float64)
    return radius * np.cos(np.pi / 2 * quadrant + np.pi / 4 * 2.0**-31 * offset)


def uniform_pair(state, step, block):
    """Two doubles from the block's words, high word first."""
    a, b, c, d = words(state, step, block)

    def double(high, low):
        return ((high >> np.uint64(5)) * 2.0**26 + (low >> np.uint64(6))) * 2.0**-53

    return double(a, b), double(c, d)


def uniforms(state, step, count):
    """The first `count` doubles of a step's blocks, [count, N]."""
    pairs = [uniform_pair(state, step, block) for block in range((count + 1) // 2)]
    return np.concatenate([np.stack(pair) for pair in pairs])[:count]
