"""Random numbers for declared families, as functions of streams and counters."""

from collections.abc import Sequence
from enum import IntEnum

from array_api_compat import array_namespace, device

from metarl.support.randomness import GAMMA, Array, mixed, random_words


class Purpose(IntEnum):
    """What random numbers are used for; two purposes never share numbers."""

    RESET = 1
    TRANSITION = 2
    ACTION = 3


class Noise:
    """Random numbers of a batch of streams [...], as NumPy arrays or torch tensors.

    They are a pure function of the streams, the purpose and the number of earlier draws, so an
    episode depends on its own stream only. NumPy and torch give the same bits, because only
    operations with exactly rounded results are used.
    """

    def __init__(self, streams: Array, purpose: Purpose):
        """`streams` [...] int64: any integers, consecutive ones too, because they are hashed."""
        # The extra dimension is needed because NumPy warns if a scalar overflows.
        self._starts = mixed(mixed(streams[..., None] + GAMMA) + int(purpose))[..., 0]
        self._drawn = 0

    def uniform(self, low: float | Array, high: float | Array, n: int) -> Array:
        """Uniform over [low, high): [..., n] float64; bounds are numbers or arrays [n]."""
        return low + (high - low) * unit_interval(self._words(n))

    def normal(self, n: int) -> Array:
        """Standard normal: [..., n] float64."""
        return normal_quantile(_midpoints(self._words(n)))

    def zeros(self, n: int) -> Array:
        """Zeros of the same array type and on the same device: [..., n] float64."""
        xp, shape = array_namespace(self._starts), (*self._starts.shape, n)
        return xp.zeros(shape, dtype=xp.float64, device=device(self._starts))

    def uniform_at(self, step: Array, n: int) -> Array:
        """The numbers of one step, uniform over [0, 1): [..., n]; `step` [] or [...] int64.

        Steps [steps, 1, ...] give those of several: [steps, ..., n].
        """
        return unit_interval(random_words(self._starts, step * n, n))

    def normal_at(self, step: Array, n: int) -> Array:
        """The numbers of one step or several, standard normal: as `uniform_at`."""
        return normal_quantile(_midpoints(random_words(self._starts, step * n, n)))

    def gumbel_at(self, step: Array, n: int) -> Array:
        """The numbers of one step or several, −log(−log u), standard Gumbel: as `uniform_at`."""
        words = random_words(self._starts, step * n, n)
        return -_logarithm(-_logarithm(_midpoints(words)))

    def _words(self, n: int) -> Array:
        words = random_words(self._starts, self._drawn, n)
        self._drawn += n
        return words


def _midpoints(words: Array) -> Array:
    """53-bit integers as the midpoints of 2^52 intervals, which are never 0 or 1."""
    return (_as_float(words >> 1) + 0.5) * 2.0**-52


def unit_interval(words: Array) -> Array:
    """53-bit integers as numbers in [0, 1)."""
    return _as_float(words) * 2.0**-53


def _as_float(words: Array) -> Array:
    xp = array_namespace(words)
    return xp.astype(words, xp.float64)


# Coefficients of PPND16, lowest power first: numerators and denominators.
_CENTRE = (
    (3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
     45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
    (1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077,
     21213.794301586595867, 39307.895800092710610, 28729.085735721942674, 5226.4952788528545610),
)  # fmt: skip
_SIDE = (
    (1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550,
     3.64784832476320460504, 1.27045825245236838258, 0.241780725177450611770,
     0.0227238449892691845833, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550,
     0.148103976427480074590, 0.0151986665636164571966, 5.47593808499534494600e-4,
     1.05075007164441684324e-9),
)  # fmt: skip
_TAIL = (
    (6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580,
     0.296560571828504891230, 0.0265321895265761230930, 1.24266094738807843860e-3,
     2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 0.599832206555887937690, 0.136929880922735805310, 0.0148753612908506148525,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
     2.04426310338993978564e-15),
)  # fmt: skip


def normal_quantile(p: Array) -> Array:
    """Φ⁻¹(p) for 0 < p < 1, to 16 digits: [...] -> [...].

    It is algorithm AS 241, PPND16 (Wichura 1988), with its own square root and logarithm, because
    those of NumPy and torch differ in the last bit (the square root on some processors only).
    """
    xp = array_namespace(p)
    q = p - 0.5
    centre = q * _ratio(_CENTRE, 0.180625 - q * q)
    r = _root(-_logarithm(xp.where(q < 0.0, p, 1.0 - p)))
    away = xp.where(r <= 5.0, _ratio(_SIDE, r - 1.6), _ratio(_TAIL, r - 5.0))
    return xp.where(abs(q) <= 0.425, centre, xp.where(q < 0.0, -away, away))


def _ratio(polynomials: tuple[Sequence[float], Sequence[float]], x: Array) -> Array:
    numerator, denominator = (_polynomial(coefficients, x) for coefficients in polynomials)
    return numerator / denominator


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """Σ_k c_k x^k by Horner's rule."""
    value = coefficients[-1] * x + coefficients[-2]
    for c in coefficients[-3::-1]:
        value = value * x + c
    return value


def _root(x: Array) -> Array:
    """√x for .6 < x < 40, by Newton's method from a linear first guess: [...] -> [...]."""
    y = 0.15 * x + 1.3
    for _ in range(5):
        y = 0.5 * (y + x / y)
    return y


def _logarithm(x: Array) -> Array:
    """log x: with x = m 2^e and s = (m − 1) / (m + 1), log m = 2 Σ_k s^(2k + 1) / (2k + 1)."""
    m, e = array_namespace(x).frexp(x)  # m in [.5, 1)
    s = (m * _SQRT_2 - 1.0) / (m * _SQRT_2 + 1.0)  # |s| < .172
    return 2.0 * s * _polynomial(_SERIES, s * s) + (_as_float(e) - 0.5) * _LOG_2


_SQRT_2 = 1.4142135623730951
_LOG_2 = 0.6931471805599453
_SERIES = [1.0 / (2 * k + 1) for k in range(12)]
