"""sin, cos, exp, tanh and log for user environments, in plain Python that Numba compiles to vector instructions.

The functions of the standard library's ``math`` are calls, which keep `compile_env` from stepping several
environments at once; these are arithmetic, free of branches once compiled. In a compiled environment, in debug mode
and in metafast's own environments they give the same bits.

========  ===========  ==========================  =============
function  valid for    outside                     maximum error
========  ===========  ==========================  =============
sin, cos  |x| <= 2^20  NaN                         1.5 ulp
exp       every x      infinity, denormals, 0      1.1 ulp
tanh      every x      +-1                         1.4 ulp
log       x > 0        -infinity at 0, NaN below   0.9 ulp
========  ===========  ==========================  =============

The polynomials are those of csrc/common/vector_math_polynomials.hpp, derived in vector_math_polynomials.py beside it.
"""

import struct

__all__ = ["cos", "exp", "log", "sin", "tanh"]

# Adding 1.5 * 2^52 rounds to a whole number and leaves it in the low bits of the sum.
_ROUND_SHIFT = 6755399441055744.0
_ROUND_SHIFT_BITS = 0x4338000000000000
_NAN = float("nan")
_INFINITY = float("inf")
_LN2_HIGH = float.fromhex("0x1.62e42fefa38p-1")
_LN2_LOW = float.fromhex("0x1.ef35793c7673p-45")

_ANGLE_INVERSE = float.fromhex("0x1.45f306dc9c883p-1")
_ANGLE_PARTS = tuple(map(float.fromhex, ("0x1.921fb544p+0", "0x1.0b4611a6p-34", "0x1.3198a2e037073p-69")))
# Highest power first.
_SINE = tuple(
    map(
        float.fromhex,
        (
            "0x1.5d9394413a69ap-33",
            "-0x1.ae5e686cbb3f7p-26",
            "0x1.71de357ae474fp-19",
            "-0x1.a01a019c15e70p-13",
            "0x1.111111110f8a5p-7",
            "-0x1.5555555555549p-3",
        ),
    )
)
_COSINE = tuple(
    map(
        float.fromhex,
        (
            "-0x1.8fb11e1105fddp-37",
            "0x1.1ee9f132556a5p-29",
            "-0x1.27e4f8128e8ddp-22",
            "0x1.a01a019cbf386p-16",
            "-0x1.6c16c16c1521ep-10",
            "0x1.555555555554cp-5",
        ),
    )
)
_EXPONENTIAL_INVERSE = float.fromhex("0x1.71547652b82fep+0")
_EXPONENTIAL = tuple(
    map(
        float.fromhex,
        (
            "0x1.af857f75a6d6ap-26",
            "0x1.28b0491e4e8f2p-22",
            "0x1.71dddfd22e348p-19",
            "0x1.a0199693aeabcp-16",
            "0x1.a01a01baded85p-13",
            "0x1.6c16c185a75e1p-10",
            "0x1.111111110d646p-7",
            "0x1.555555555003p-5",
            "0x1.5555555555561p-3",
            "0x1.000000000000bp-1",
        ),
    )
)
_TANH_NUMERATOR = tuple(
    map(float.fromhex, ("-0x1.a1ce367c0dd26p-13", "-0x1.4fdea8693d71ap-6", "-0x1.5555555555555p-2"))
)
_TANH_DENOMINATOR = tuple(
    map(float.fromhex, ("0x1.b13d12553637ap-13", "0x1.7da0df3f9e184p-6", "0x1.d893592d55191p-2", "0x1p+0"))
)
_LOGARITHM = tuple(
    map(
        float.fromhex,
        (
            "0x1.2f04576cf7e6bp-3",
            "0x1.39a1daa95da20p-3",
            "0x1.74663d690ddafp-3",
            "0x1.c71c521253c5dp-3",
            "0x1.24924941e33b9p-2",
            "0x1.999999997ff04p-2",
            "0x1.5555555555592p-1",
        ),
    )
)


# The only two functions that are not arithmetic; metafast.envs.compiled gives Numba its own versions of them.
def _bits_of(x: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", x))[0])


def _number_of(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])


def _reduce_angle(magnitude: float) -> tuple[float, float, int]:
    """The angle as quadrant * pi/2 + r + rest with |r| <= pi/4: Cody and Waite's reduction, as in vector_math.hpp."""
    shifted = magnitude * _ANGLE_INVERSE + _ROUND_SHIFT
    k = shifted - _ROUND_SHIFT
    first = magnitude - k * _ANGLE_PARTS[0]
    second_product = k * _ANGLE_PARTS[1]
    second = first - second_product
    lost = (first - second) - second_product
    third = lost - k * _ANGLE_PARTS[2]
    r = second + third
    return r, (second - r) + third, _bits_of(shifted)


def _sine_of_reduced(r: float, rest: float) -> float:
    z = r * r
    p = _SINE[1] + z * _SINE[0]
    p = _SINE[2] + z * p
    p = _SINE[3] + z * p
    p = _SINE[4] + z * p
    p = _SINE[5] + z * p
    return r + (rest + r * (z * p))


def _cosine_of_reduced(r: float) -> float:
    z = r * r
    p = _COSINE[1] + z * _COSINE[0]
    p = _COSINE[2] + z * p
    p = _COSINE[3] + z * p
    p = _COSINE[4] + z * p
    p = _COSINE[5] + z * p
    return 1.0 + z * (-0.5 + z * p)


def sin(x: float) -> float:
    """The sine of a float64 angle of at most 2^20 radians, to 1.5 units in the last place; NaN beyond.

    Examples
    --------
    >>> from metafast.envs import math
    >>> math.sin(0.5)
    0.479425538604203
    """
    x = float(x)
    magnitude = abs(x)
    magnitude = magnitude if magnitude <= 1048576.0 else _NAN
    r, rest, quadrant = _reduce_angle(magnitude)
    sine = _sine_of_reduced(r, rest)
    cosine = _cosine_of_reduced(r)
    value = cosine if quadrant & 1 != 0 else sine
    negative = (quadrant & 2 != 0) != (_bits_of(x) < 0)
    return -value if negative else value


def cos(x: float) -> float:
    """The cosine of a float64 angle of at most 2^20 radians, to 1.5 units in the last place; NaN beyond.

    Examples
    --------
    >>> from metafast.envs import math
    >>> math.cos(0.5)
    0.8775825618903728
    """
    magnitude = abs(float(x))
    magnitude = magnitude if magnitude <= 1048576.0 else _NAN
    r, rest, quadrant = _reduce_angle(magnitude)
    sine = _sine_of_reduced(r, rest)
    cosine = _cosine_of_reduced(r)
    value = sine if quadrant & 1 != 0 else cosine
    return -value if (quadrant + 1) & 2 != 0 else value


def _reduce_exponential(x: float) -> tuple[float, int]:
    """exp(x) as 2^exponent * (1 + fraction)."""
    shifted = x * _EXPONENTIAL_INVERSE + _ROUND_SHIFT
    k = shifted - _ROUND_SHIFT
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    p = _EXPONENTIAL[1] + r * _EXPONENTIAL[0]
    p = _EXPONENTIAL[2] + r * p
    p = _EXPONENTIAL[3] + r * p
    p = _EXPONENTIAL[4] + r * p
    p = _EXPONENTIAL[5] + r * p
    p = _EXPONENTIAL[6] + r * p
    p = _EXPONENTIAL[7] + r * p
    p = _EXPONENTIAL[8] + r * p
    p = _EXPONENTIAL[9] + r * p
    return r + r * (r * p), _bits_of(shifted) - _ROUND_SHIFT_BITS


def _power_of_two(exponent: int) -> float:
    return _number_of((exponent + 1023) << 52)


def exp(x: float) -> float:
    """e to the power of a float64, to 1.1 units in the last place, denormal results included.

    Examples
    --------
    >>> from metafast.envs import math
    >>> math.exp(0.5)
    1.6487212707001282
    """
    x = float(x)
    # A NaN would not be a valid exponent in the bits.
    clipped = x if x < 710.0 else 710.0
    clipped = clipped if clipped > -746.0 else -746.0
    fraction, exponent = _reduce_exponential(clipped)
    # In two factors, because 2^exponent alone may overflow or be denormal.
    half = (exponent + 2048 >> 1) - 1024
    value = (1.0 + fraction) * _power_of_two(half) * _power_of_two(exponent - half)
    return value if x == x else _NAN


def tanh(x: float) -> float:
    """The hyperbolic tangent of a float64, to 1.4 units in the last place.

    Examples
    --------
    >>> from metafast.envs import math
    >>> math.tanh(1.0)
    0.7615941559557649
    """
    x = float(x)
    magnitude = abs(x)
    magnitude = magnitude if magnitude < 19.5 else 19.5
    z = magnitude * magnitude
    fraction, exponent = _reduce_exponential(magnitude + magnitude)
    scale = _power_of_two(exponent)
    small = magnitude < 0.5625
    numerator_polynomial = _TANH_NUMERATOR[2] + z * (_TANH_NUMERATOR[1] + z * _TANH_NUMERATOR[0])
    denominator_polynomial = _TANH_DENOMINATOR[3] + z * (
        _TANH_DENOMINATOR[2] + z * (_TANH_DENOMINATOR[1] + z * _TANH_DENOMINATOR[0])
    )
    numerator = magnitude * (z * numerator_polynomial) if small else -2.0
    denominator = denominator_polynomial if small else scale * fraction + (scale + 1.0)
    value = (magnitude if small else 1.0) + numerator / denominator
    value = -value if _bits_of(x) < 0 else value
    return value if x == x else _NAN


def log(x: float) -> float:
    """The natural logarithm of a float64, within 0.9 units in the last place; -infinity at 0, NaN below.

    Examples
    --------
    >>> from metafast.envs import math
    >>> math.log(10.0)
    2.302585092994046
    """
    x = float(x)
    # A denormal is scaled to a normal number first; the others stay as they are.
    tiny = x < 2.2250738585072014e-308
    bits = _bits_of(x * 18014398509481984.0 if tiny else x)
    # 0x3FE6A09E667F3BCD are the bits of sqrt(1/2): the mantissa comes to lie in [sqrt(1/2), sqrt(2)).
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    f = _number_of(bits - (exponent << 52)) - 1.0
    # The exponent as a float without a conversion, which not every processor has in vectors.
    k = _number_of(exponent + _ROUND_SHIFT_BITS) - _ROUND_SHIFT
    k = k - 54.0 if tiny else k
    s = f / (2.0 + f)
    z = s * s
    p = _LOGARITHM[1] + z * _LOGARITHM[0]
    p = _LOGARITHM[2] + z * p
    p = _LOGARITHM[3] + z * p
    p = _LOGARITHM[4] + z * p
    p = _LOGARITHM[5] + z * p
    p = _LOGARITHM[6] + z * p
    half_square = 0.5 * f * f
    small = half_square - (s * (half_square + z * p) + k * _LN2_LOW)
    value = k * _LN2_HIGH - (small - f)
    value = value if x < _INFINITY else x
    value = value if x > 0.0 else (-_INFINITY if x == 0.0 else _NAN)
    return value
