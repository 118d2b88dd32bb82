"""Derives the coefficients in vector_math_polynomials.hpp and prints them as C++ literals.

Remez's exchange algorithm in 60 digits. Each polynomial is the least in the maximum of the weighted error, and the
weight turns its error into the relative error of the finished function. Where the interval allows, the lowest
coefficients are rounded to the target type first and the rest are fitted anew around them.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 60


def alternating_extrema(errors, points):
    """The exchange: from each run of errors of one sign its largest, as many as there are `points`."""
    extrema = [errors[0]]
    for x, error in errors[1:]:
        if (error > 0) == (extrema[-1][1] > 0):
            extrema[-1] = max(extrema[-1], (x, error), key=lambda pair: abs(pair[1]))
        else:
            extrema.append((x, error))
    while len(extrema) > len(points):
        extrema.pop(0 if abs(extrema[0][1]) < abs(extrema[-1][1]) else -1)
    return [x for x, _ in extrema] if len(extrema) == len(points) else points


def remez(function, weight, low, high, degree):
    """The polynomial p (lowest coefficient first) that minimises max |weight * (function - p)| on [low, high]."""
    middle, half = (high + low) / 2, (high - low) / 2
    # A first guess that is off centre, because a weight may be 0 there.
    points = [middle - half * mp.cos(mp.pi * (2 * i + 1.1) / (2 * degree + 4.2)) for i in range(degree + 2)]
    grid = [middle - half * mp.cos(mp.pi * i / 801) for i in range(802)]
    values = [(x, function(x), weight(x)) for x in grid if weight(x) != 0]
    for _ in range(12):
        system = mp.matrix(degree + 2, degree + 2)
        right = mp.matrix(degree + 2, 1)
        for row, x in enumerate(points):
            for power in range(degree + 1):
                system[row, power] = weight(x) * x**power
            system[row, degree + 1] = (-1) ** row
            right[row] = weight(x) * function(x)
        solution = mp.lu_solve(system, right)
        coefficients = list(solution)[: degree + 1]
        points = alternating_extrema([(x, w * (f - mp.polyval(coefficients[::-1], x))) for x, f, w in values], points)
    return coefficients


def round_and_refit(function, weight, low, high, degree, dtype):
    """Coefficients rounded to `dtype`, lowest first, and the largest weighted error that they leave."""
    fixed = []
    while len(fixed) <= degree:
        done = tuple(fixed)

        def remainder(x, done=done):
            if not done:
                return function(x)
            x = max(x, mp.mpf(10) ** -8)
            return (function(x) - mp.polyval(done[::-1], x)) / x ** len(done)

        coefficients = remez(remainder, lambda x, done=done: weight(x) * x ** len(done), low, high, degree - len(done))
        # Refitting needs the interval to be on one side of 0.
        fixed += [mp.mpf(float(dtype(float(c)))) for c in (coefficients if low < 0 else coefficients[:1])]
    points = [low + (high - low) * i / 2000 for i in range(2001)]
    return fixed, max(abs(weight(x) * (function(x) - mp.polyval(fixed[::-1], x))) for x in points)


def rational_remez(function, weight, high, numerator_degree, denominator_degree):
    """P and Q, with Q(0) = 1, that minimise max |weight * (function - P / Q)| on [0, high].

    The error equations are linear once the Q that divides them is the one of the round before.
    """
    unknowns = numerator_degree + denominator_degree + 2
    points = [high / 2 * (1 - mp.cos(mp.pi * (2 * i + 1) / (2 * unknowns))) for i in range(unknowns)]
    grid = [high / 2 * (1 - mp.cos(mp.pi * i / 801)) for i in range(1, 802)]
    values = [(z, function(z), weight(z)) for z in grid]
    numerator, denominator = [mp.mpf(0)], [mp.mpf(1)]
    for _ in range(20):
        system, right = mp.matrix(unknowns, unknowns), mp.matrix(unknowns, 1)
        for row, z in enumerate(points):
            scale, f = weight(z) / mp.polyval(denominator[::-1], z), function(z)
            entries = [scale * z**n for n in range(numerator_degree + 1)]
            entries += [-scale * f * z**n for n in range(1, denominator_degree + 1)]
            for column, entry in enumerate([*entries, mp.mpf(-1) ** row]):
                system[row, column] = entry
            right[row] = scale * f
        solution = list(mp.lu_solve(system, right))
        numerator = solution[: numerator_degree + 1]
        denominator = [mp.mpf(1), *solution[numerator_degree + 1 : -1]]
        points = alternating_extrema(
            [(z, w * (f - mp.polyval(numerator[::-1], z) / mp.polyval(denominator[::-1], z))) for z, f, w in values],
            points,
        )
    return numerator, denominator


def sine(z):
    """(sin(r) / r - 1) / z, with z = r^2."""
    if z < mp.mpf(10) ** -20:
        return mp.mpf(-1) / 6 + z / 120
    r = mp.sqrt(z)
    return (mp.sin(r) / r - 1) / z


def cosine(z):
    """(cos(r) - 1 + z / 2) / z^2, with z = r^2."""
    if z < mp.mpf(10) ** -20:
        return mp.mpf(1) / 24 - z / 720
    return (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2


def exponential(r):
    """(exp(r) - 1 - r) / r^2."""
    if abs(r) < mp.mpf(10) ** -20:
        return mp.mpf(1) / 2 + r / 6
    return (mp.expm1(r) - r) / r**2


def power_of_two(r):
    """(2^r - 1 - r ln 2) / r^2; of csrc/attention/power_of_two.hpp."""
    if abs(r) < mp.mpf(10) ** -20:
        return mp.log(2) ** 2 / 2 + r * mp.log(2) ** 3 / 6
    return (mp.expm1(r * mp.log(2)) - r * mp.log(2)) / r**2


def hyperbolic_tangent(z):
    """(tanh(x) / x - 1) / z, with z = x^2."""
    if z < mp.mpf(10) ** -20:
        return mp.mpf(-1) / 3 + 2 * z / 15
    x = mp.sqrt(z)
    return (mp.tanh(x) / x - 1) / z


def whole_tangent(z):
    """tanh(x) / x, with z = x^2."""
    return 1 + z * hyperbolic_tangent(z)


def logarithm(z):
    """(log((1 + s) / (1 - s)) / s - 2) / z, with z = s^2."""
    if z < mp.mpf(10) ** -20:
        return mp.mpf(2) / 3 + 2 * z / 5
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) / s - 2) / z


def show(title, error, coefficients):
    print(f"{title}: error 2^{float(mp.log(error, 2)):.1f}")
    for power, coefficient in enumerate(coefficients):
        print(f"  [{power}] {float(coefficient).hex()}")


def main():
    quarter = (mp.pi / 4) ** 2 * mp.mpf("1.0001")
    half_ln2 = mp.log(2) / 2 * mp.mpf("1.0001")
    small_tanh = mp.mpf("0.5625") ** 2
    # log(1 + f) with s = f / (2 + f) and 1 + f between sqrt(1/2) and sqrt(2).
    small_log = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.0001")
    dtypes = (np.float32, np.float64)
    for name, function, weight, low, high, degrees in (
        ("sine", sine, lambda z: z, mp.mpf(0), quarter, (2, 5)),
        ("cosine", cosine, lambda z: z**2, mp.mpf(0), quarter, (2, 5)),
        ("exponential", exponential, lambda r: r**2, -half_ln2, half_ln2, (4, 9)),
        ("power of two", power_of_two, lambda r: r**2, mp.mpf("-0.5"), mp.mpf("0.5"), (4, 9)),
        ("logarithm", logarithm, lambda z: z / 2, mp.mpf(0), small_log, (2, 6)),
    ):
        for dtype, degree in zip(dtypes, degrees, strict=True):
            coefficients, error = round_and_refit(function, weight, low, high, degree, dtype)
            show(f"{name} {dtype.__name__}", error, coefficients)

    for dtype, degrees in zip(dtypes, ((1, 1), (2, 3)), strict=True):
        fitted = rational_remez(hyperbolic_tangent, lambda z: z, small_tanh, *degrees)
        numerator, denominator = ([mp.mpf(float(dtype(float(c)))) for c in part] for part in fitted)
        points = [small_tanh * i / 1000 for i in range(1001)]
        quotients = [mp.polyval(numerator[::-1], z) / mp.polyval(denominator[::-1], z) for z in points]
        error = max(z * abs(hyperbolic_tangent(z) - quotient) for z, quotient in zip(points, quotients, strict=True))
        show(f"tanh numerator {dtype.__name__}", error, numerator)
        show(f"tanh denominator {dtype.__name__}", error, denominator)

    # csrc/nn/activations.hpp: tanh(x) = x P(x^2) / Q(x^2) on the whole of its range.
    fitted = rational_remez(whole_tangent, lambda z: 1 / whole_tangent(z), mp.mpf("7.9") ** 2, 4, 4)
    for name, part in zip(("numerator", "denominator"), fitted, strict=True):
        show(f"tanh of networks, {name}", mp.mpf("5.7e-9"), [mp.mpf(float(np.float32(float(c)))) for c in part])

    for name, value, widths in (
        ("pi/2", mp.pi / 2, (33, 33, 53)),
        ("ln 2 float32", mp.log(2), (15, 24)),
        ("ln 2 float64", mp.log(2), (42, 53)),
    ):
        print(name, "in parts")
        for bits in widths:
            exponent = int(mp.floor(mp.log(abs(value), 2))) + 1 - bits
            part = mp.nint(value * mp.mpf(2) ** -exponent) * mp.mpf(2) ** exponent
            print("  ", float(part).hex())
            value -= part


if __name__ == "__main__":
    main()
