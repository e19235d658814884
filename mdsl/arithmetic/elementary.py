"""Elementary functions of f32 lanes, without branches or tables, so that they vectorise.

The methods are the classic ones (Cody and Waite, "Software Manual for the Elementary Functions", 1980;
Muller, "Elementary Functions", 2016): reduce the argument, evaluate a polynomial that is minimax on the
reduced range (fitted by the Remez algorithm, relative error below 2^-25), undo the reduction. All are
defined for every f32, denormals included, and treat zeros, infinities and NaN as C's Annex F does, but that the
exponential functions give 0 for less than 2^-127: Intel's processors take 150 cycles to make or to read a denormal, and
a softmax under a mask makes many.
Largest errors measured over all f32 are a few units in the last place; tests/codegen states them.
"""

from __future__ import annotations

from mdsl.arithmetic.lanes import F32, F64, I32, I64, INFINITY, NAN, Lanes

_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.693359375
"""ln 2 to 9 bits: its product with an exponent is exact in f32."""
_LN2_LOW = -2.12194440054690567e-4
_EXP_TAIL = 0.500000345, 0.166666143, 0.0416612786, 0.0083360975, 0.00141042631, 0.000196118528
"""(e^r - 1 - r) / r^2 for |r| <= ln 2."""
_EXP2_TAIL = 0.693146978, 0.240222421, 0.0555073376, 0.009671513, 0.0013264722
"""(2^r - 1) / r for |r| <= 1/2."""
_ROUND_F32 = 12582912.0
"""1.5 * 2^23: adding it rounds an f32 to an integer and leaves that integer in the low bits."""
_BIASED = _ROUND_F32 + 127.0
"""Adding it leaves the exponent field of 2 to the power of that integer in the low bits."""
_ROUND_F64 = 6755399441055744.0
_TINY = 2.0**-25
"""Below this, f(x) rounds to x for every function here with f(x) = x + O(x^2)."""


def exp(x: Lanes) -> Lanes:
    """e^x = 4^n * e^r with n = round(x / ln 4), |r| <= ln 2. It is multiplied by 2^n twice: 4^n may be no normal f32,
    and a result out of range is rounded once."""
    r, power = _reduce_by(2, x.clamp(-104.0, 89.0))
    return _scaled_twice(_exp_reduced(r), power)


def exp2(x: Lanes) -> Lanes:
    """2^x = 4^n * e^(r ln 2) with n = round(x / 2), |r| <= 1."""
    x = x.clamp(-151.0, 128.5)
    shifted = x.fused(0.5, _BIASED)
    r = (shifted - _BIASED).fused(-2.0, x)
    return _scaled_twice(_exp_reduced(r * 0.6931471805599453), _power_in(shifted))


def expm1(x: Lanes) -> Lanes:
    """The argument itself where that is what it rounds to."""
    return x.absolute().compare("olt", _TINY).choose(x, _expm1(x.clamp(-20.0, 89.0)))


def log(x: Lanes) -> Lanes:
    """ln x = e ln 2 + ln m with m in [sqrt(1/2), sqrt(2))."""
    e, high, low = _log_parts(x)
    return _log_limits(x, e.fused(_LN2_HIGH, high + e.fused(_LN2_LOW, low)))


def log2(x: Lanes) -> Lanes:
    """log2 x = e + ln m / ln 2."""
    e, high, low = _log_parts(x)
    return _log_limits(x, (high + low).fused(_LOG2_E, e))


def log1p(x: Lanes) -> Lanes:
    """ln(1 + x) = ln u + (x - (u - 1)) / u with u = 1 + x rounded, the second term making up for that
    rounding (Kahan)."""
    u = x + 1.0
    correctable = (u > 0.0) & (u < 2.0**25)
    correction = correctable.choose((x - (u - 1.0)) / u, x.of(0.0))
    return (x.absolute() < _TINY).choose(x, log(u) + correction)


def tanh(x: Lanes) -> Lanes:
    """tanh|x| = t / (t + 2) with t = e^(2|x|) - 1."""
    magnitude = x.absolute()
    magnitude = magnitude.where(magnitude > 10.0, 10.0)
    t = _expm1(magnitude + magnitude)
    return (t / (t + 2.0)).with_sign_of(x)


def erf(x: Lanes) -> Lanes:
    """x + x P(x^2) near zero; 1 - exp(-t - t Q(t)) with t = |x| beyond, where erfc decays."""
    magnitude = x.absolute()
    t = magnitude.where(magnitude > 4.0, 4.0)
    square = x * x
    near = square.polynomial(
        0.128379151, -0.376124799, 0.112816826, -0.0267617218, 0.0049859439, -0.000595375779
    )
    # log2(e) times -t - t Q(t), of which 2^n 2^r is the power: n in -32 .. 0 goes straight into the exponent.
    power = t * t.polynomial(
        -1.6282956, -0.916329583, -0.153267563, 0.0342815436, -0.00525502227, 0.00046572398, -1.62050441e-05
    )
    shifted = power + _ROUND_F32
    fraction = (power - (shifted - _ROUND_F32)).polynomial(1.0, *_EXP2_TAIL)
    far = (1.0 - (fraction.bits(I32) + (shifted.bits(I32) << 23)).bits(F32)).with_sign_of(x)
    return (magnitude > 0.92).choose(far, x.fused(near, x))


def erfc(x: Lanes) -> Lanes:
    """2^(t P(t)) with t = |x|, which is erfc t; erfc(-t) = 2 - erfc t.

    P is minimax for log2(erfc t) / t where what counts is the error's share of 1: 2^-22 at most. Of erfc t itself it is
    2^-19 up to t = 2 and 2^-10 up to 5.5, where that is 7e-15; beyond, the result falls to 0 faster than erfc, before 9.
    """
    magnitude = x.absolute()
    t = magnitude.where(magnitude > 9.0, 9.0)
    exponent = t * t.polynomial(
        -1.62790844, -0.918424661, -0.148402383, 0.0279529948, -0.00020495125,
        -0.00208065093, 0.000789554778, -0.000153409604, 1.59190383e-05, -6.92450771e-07,
    )  # fmt: skip
    shifted = exponent + _BIASED
    fraction = (exponent - (shifted - _BIASED)).polynomial(1.0, *_EXP2_TAIL)
    # Of an exponent below the normal numbers' the sign bit is set.
    power = shifted.bits(I32) << 23
    decay = fraction * power.where(power < 0, 0).bits(F32)
    return (x.bits(I32) < 0).choose(2.0 - decay, decay)


def gelu(x: Lanes) -> Lanes:
    """max(x, 0) - t p(t)^8 with t = |x|: p^8 is the normal distribution's share below -t.

    The eighth root falls so gently that a polynomial of degree 8 will do, and needs no exponential. It is minimax for the
    share's error; of a rounding of p the power makes eight. At the largest t p is so close to its root there that the power is 0: the
    result is 0 or x, and no denormal.
    """
    magnitude = x.absolute()
    t = magnitude.where(magnitude > 8.00011635, 8.00011635)
    root = t.polynomial(
        0.917004049, -0.0914579332, -0.0319261365, -0.000675059797, 0.00150678807,
        3.33531389e-05, -6.00991443e-05, 7.47642434e-06, -2.97172051e-07,
    )  # fmt: skip
    square = root * root
    fourth = square * square
    bits = x.bits(I32)  # as integers zeros have one order; a NaN comes by t
    return (t * fourth).fused(-fourth, bits.where(bits < 0, 0).bits(F32))


def sin(x: Lanes) -> Lanes:
    """The sine or cosine of the remainder by pi/2, chosen and signed by the quadrant."""
    quadrant, r = _reduce_by_half_pi(x)
    return x.equals(0.0).choose(x, _quadrant_value(quadrant, r))  # -0 is lost in the reduction


def cos(x: Lanes) -> Lanes:
    """cos x = sin(x + pi/2): the next quadrant's sine."""
    quadrant, r = _reduce_by_half_pi(x)
    return _quadrant_value(quadrant + 1, r)


def atan(x: Lanes) -> Lanes:
    """r + r^3 P(r^2) on [0, 1]; beyond, atan t = pi/2 - atan(1 / t)."""
    t = x.absolute()
    large = t > 1.0
    r = large.choose(-1.0 / t, t)
    square = r * r
    tail = square.polynomial(
        -0.333333314, 0.199997663, -0.142791107, 0.110379927, -0.0867316574,
        0.062843509, -0.0362700671, 0.0137502234, -0.002447017,
    )  # fmt: skip
    near = (r * square).fused(tail, r)
    return large.choose(near + 1.5707963267948966, near).with_sign_of(x)


def pow(x: Lanes, y: Lanes) -> Lanes:
    """|x|^y = 2^(y log2|x|), in f64, where both steps' errors vanish in f32's rounding; then the sign and
    the limits, as C's Annex F has them."""
    magnitude = x.absolute()
    exponent = _log2_f64(magnitude.cast("fpext", F64)) * y.cast("fpext", F64)
    result = _exp2_f64(exponent.clamp(-200.0, 200.0)).cast("fptrunc", F32)

    vanishes = magnitude.equals(0.0)
    limit = (vanishes ^ (y < 0.0)).choose(x.of(0.0), x.of(INFINITY))
    result = (vanishes | magnitude.equals(INFINITY)).choose(limit, result)
    result = result.where(magnitude.equals(1.0), 1.0)

    whole = y.call("trunc").equals(y)
    half = y * 0.5
    odd = whole & ~half.call("trunc").equals(half)
    negative = x.bits(I32) < 0
    result = (negative & odd).choose(-result, result)
    result = result.where((x < 0.0) & (x > -INFINITY) & ~whole, NAN)
    result = result.where(x.compare("uno", y), NAN)
    return result.where(y.equals(0.0) | x.equals(1.0), 1.0)


def _low_integer(rounded: Lanes) -> Lanes:
    """The integer left in the low bits by adding `_ROUND_F32` (or `_ROUND_F64`): no lane is undefined, as
    a NaN's conversion would be."""
    double = rounded.element == F64
    magic = rounded.of(_ROUND_F64 if double else _ROUND_F32)
    integer = I64 if double else I32
    return rounded.bits(integer) - magic.bits(integer)


def _power_of_two(n: Lanes) -> Lanes:
    """2^n for integer lanes n within the normal numbers' exponents, as f32 or f64 by their width."""
    if n.width == 32:
        return ((n + 127) << 23).bits(F32)
    return ((n + 1023) << 52).bits(F64)


def _power_in(shifted: Lanes) -> Lanes:
    """2^n of n + `_BIASED`: the exponent's field goes where it belongs, what is above it out."""
    return (shifted.bits(I32) << 23).bits(F32)


def _reduce_by(step: int, x: Lanes, bias: float = 0.0) -> tuple[Lanes, Lanes]:
    """(r, 2^(n + bias)): x = n step ln 2 + r with |r| <= step ln(2) / 2, for |x| < 2^15."""
    magic = _BIASED + bias
    shifted = x.fused(_LOG2_E / step, magic)
    n = shifted - magic
    return n.fused(-step * _LN2_LOW, n.fused(-step * _LN2_HIGH, x)), _power_in(shifted)


def _exp_reduced(r: Lanes) -> Lanes:
    """e^r for |r| <= ln 2."""
    return r.polynomial(1.0, 1.0, *_EXP_TAIL)


def _scaled_twice(value: Lanes, power: Lanes) -> Lanes:
    """value * power * power for a value in [1/2, 2]; 0 where that is less than 2^-127."""
    return value * power * power.where(power < 2.0**-63, 0.0)


def _expm1(x: Lanes) -> Lanes:
    """e^x - 1 = 2^n * (e^r - 1) + (2^n - 1), halved in between so that 2^n does not overflow; for x in [-20, 89]."""
    r, half_power = _reduce_by(1, x, bias=-1.0)
    polynomial = r.polynomial(0.5, 0.166666672, 0.0416663513, 0.0083332723, 0.00139412074, 0.000199144226)
    return (r * r).fused(polynomial, r).fused(half_power, half_power - 0.5) * 2.0


def _log_parts(x: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """(e, high, low): x = 2^e m, ln m = high + low, for finite positive x."""
    denormal = x < 2.0**-126
    bits = denormal.choose(x * 2.0**23, x).bits(I32)
    e = (bits - 0x3F3504F3).arithmetic_shift(23)
    f = (bits - (e << 23)).bits(F32) - 1.0
    square = f * f
    tail = f.polynomial(
        0.333333135, -0.250000089, 0.200021178, -0.166679949, 0.142195553,
        -0.124056004, 0.118881576, -0.116755918, 0.067465879,
    )  # fmt: skip
    low = (square * f).fused(tail, square * -0.5)
    exponent = e.cast("sitofp", F32)
    return denormal.choose(exponent - 23.0, exponent), f, low


def _log_limits(x: Lanes, result: Lanes) -> Lanes:
    result = result.where(x.equals(0.0), -INFINITY)
    result = x.compare("oge", INFINITY).choose(x, result)
    return result.where(x.compare("ult", 0.0), NAN)


_TWO_OVER_PI_BITS = (
    0x145F306D, 0x19391054, 0x14FE13AB, 0x1D1F534D,
    0x1B81B6C5, 0x05664F10, 0x1C820FF2, 0x1163ABDE,
)  # fmt: skip
_TWO_OVER_PI = [chunk * 2.0 ** (-29 * place) for place, chunk in enumerate(_TWO_OVER_PI_BITS, 1)]
"""2/pi in chunks of 29 bits: each one's product with an f32 (24 bits) is exact in f64."""


def _reduce_by_half_pi(x: Lanes) -> tuple[Lanes, Lanes]:
    """(q, r): x = q pi/2 + r with |r| <= pi/4; q modulo 4 as i32, r as f32. For every finite f32.

    Payne and Hanek's reduction ("Radian reduction for trigonometric functions", 1983) in f64: x times
    each chunk of 2/pi is exact, and so is what is left of it after its nearest multiple of 4 is taken
    off; chunks too coarse to matter leave zero.
    """
    wide = x.cast("fpext", F64)
    fraction, turns = wide.of(0.0), wide.of(0.0)
    for chunk in _TWO_OVER_PI:
        product = wide * chunk
        product = product - (product * 0.25).call("roundeven") * 4.0
        whole = product.call("roundeven")
        fraction, turns = fraction + (product - whole), turns + whole
    whole = fraction.call("roundeven")
    quadrant = _low_integer(turns + whole + _ROUND_F64).cast("trunc", I32)
    return quadrant, ((fraction - whole) * 1.5707963267948966).cast("fptrunc", F32)


def _quadrant_value(quadrant: Lanes, r: Lanes) -> Lanes:
    square = r * r
    sine = (r * square).fused(square.polynomial(-0.166666552, 0.00833217334, -0.000195166562), r)
    cosine_tail = square.polynomial(0.0416666456, -0.00138873095, 2.44324146e-05)
    cosine = (square * square).fused(cosine_tail, square.fused(-0.5, 1.0))
    value = (quadrant & 1).equals(0).choose(sine, cosine)
    return (value.bits(I32) ^ ((quadrant & 2) << 30)).bits(F32)


def _log2_f64(x: Lanes) -> Lanes:
    """log2 of positive normal f64, to 2^-45: the series of artanh((m - 1) / (m + 1))."""
    bits = x.bits(I64)
    e = (bits - 0x3FE6A09E667F3BCD).arithmetic_shift(52)
    m = (bits - (e << 52)).bits(F64)
    s = (m - 1.0) / (m + 1.0)
    series = (s * s).polynomial(*(2.0 * _LOG2_E / (2 * i + 1) for i in range(9)))
    return s.fused(series, e.cast("sitofp", F64))


def _exp2_f64(x: Lanes) -> Lanes:
    """2^x for |x| <= 200, to 2^-40: the exponential series of the fraction."""
    shifted = x + _ROUND_F64
    fraction = (x - (shifted - _ROUND_F64)) * 0.6931471805599453
    coefficients = [1.0]
    for i in range(1, 11):
        coefficients.append(coefficients[-1] / i)
    return fraction.polynomial(*coefficients) * _power_of_two(_low_integer(shifted))
