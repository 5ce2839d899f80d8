"""Random numbers keyed by seed and position.

A generator that advances with every draw ties a token to the history of the process that drew
it. Keying the draw by position unties it: a request that was resumed, moved or restarted draws
what the unbroken one would have drawn.
"""

from __future__ import annotations

from erllama.sampling.params import MAX_SEED

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_XTC = 0x587463  # any fixed number


def draw_seed(seed: int, position: int) -> int:
    """The 32-bit seed of the draw for the token at `position` (0-based, in the whole context).

    SplitMix64 (Steele, Lea and Flood 2014) over the seed, then over the position. llama.cpp takes
    0xFFFFFFFF for "choose a random seed", so that value is never returned.
    """
    mixed = _mix(_mix(seed & _MASK) ^ (position & _MASK)) >> 32
    return mixed if mixed != 0xFFFFFFFF else 0


def xtc_seed(seed: int) -> int:
    """The 32-bit seed of XTC's own draw beside the draw of `seed`, which must not depend on it."""
    return draw_seed(seed, _XTC)


def fresh_seed(noise: bytes) -> int:
    """A seed for a request that brought none, of eight random bytes."""
    return int.from_bytes(noise, "little") & MAX_SEED


def _mix(z: int) -> int:
    z = (z + _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
