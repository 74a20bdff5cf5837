"""Vibration signals: spectra, envelopes, and how far a fault's frequency stands out of them.

Owns what is computed from samples at a known rate. Never reads a file (`bearings` does) and never
knows which machine it looks at.

A damaged bearing knocks: each time a rolling element passes the damage, a short ring at the resonances of the housing. The ring
lies at kilohertz, the knocks come some tens or hundreds of times a second. The *envelope spectrum* looks at how often the ring
is struck and not at how it sounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, signal, stats

Numbers = NDArray[np.float64]
BAND = (2_000.0, 10_000.0)
# Rolling elements slip a little, so a fault is found beside its computed frequency, mostly below.
SLIP = 0.02
_AROUND_HZ = 20.0
_FINER = 4


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Amplitudes over frequencies from zero upwards.

    Attributes:
        frequencies: in Hz, evenly spaced.
        amplitudes: same unit as the signal; a sine of amplitude 1 shows as 1.
    """

    frequencies: Numbers
    amplitudes: Numbers

    def between(self, low: float, high: float) -> Spectrum:
        """The part from `low` to `high` Hz."""
        inside = (self.frequencies >= low) & (self.frequencies <= high)
        return Spectrum(self.frequencies[inside], self.amplitudes[inside])


def spectrum(samples: ArrayLike, rate: float) -> Spectrum:
    """The spectrum of a signal under a Hann window, its mean taken away.

    Args:
        samples: one number per sample.
        rate: samples per second.
    """
    values = np.asarray(samples, dtype=np.float64)
    window = signal.windows.hann(len(values), sym=False)
    # More points than samples do not resolve more, but hit a peak between two points better.
    size = fft.next_fast_len(_FINER * len(values), real=True)
    amplitudes = 2.0 * np.abs(fft.rfft((values - values.mean()) * window, size)) / window.sum()
    return Spectrum(fft.rfftfreq(size, 1.0 / rate), amplitudes)


def envelope(samples: ArrayLike, rate: float, band: tuple[float, float] = BAND) -> Numbers:
    """How loud the signal is within a band, moment by moment: band-pass, then the modulus of the analytic signal.

    Args:
        samples: one number per sample.
        rate: samples per second.
        band: lowest and highest frequency in Hz; a resonance of the housing should lie in it.

    Raises:
        ValueError: the band does not lie between zero and half the rate.
    """
    low, high = band
    if not 0.0 < low < high < rate / 2.0:
        raise ValueError(f"A band lies between 0 and {rate / 2.0:g} Hz, half the sampling rate; this is {low:g} to {high:g} Hz.")
    sections = signal.butter(4, band, "bandpass", fs=rate, output="sos")
    values = signal.sosfiltfilt(sections, np.asarray(samples, dtype=np.float64))
    # A length with small factors, because a Hilbert transform of a prime length takes a hundred times as long.
    analytic = signal.hilbert(values, fft.next_fast_len(len(values)))
    return np.abs(analytic[: len(values)])


def envelope_spectrum(samples: ArrayLike, rate: float, band: tuple[float, float] = BAND) -> Spectrum:
    """The spectrum of the envelope: how often the band is struck. Arguments and errors are those of `envelope`."""
    return spectrum(envelope(samples, rate, band), rate)


def prominence(found: Spectrum, frequency: float, *, harmonics: int = 3, slip: float = SLIP) -> float:
    """How many times higher a frequency and its multiples stand than what lies around them; about 2 to 4 for noise.

    Args:
        found: mostly an envelope spectrum.
        frequency: computed from the bearing's geometry and the shaft's speed, in Hz.
        harmonics: the frequency itself and so many more multiples, less one.
        slip: a peak may lie so far off, as a share of the frequency.

    Raises:
        ValueError: the spectrum does not reach the highest multiple.
    """
    step = found.frequencies[1] - found.frequencies[0]
    if frequency <= 0.0 or frequency * harmonics * (1.0 + slip) + _AROUND_HZ > found.frequencies[-1]:
        raise ValueError(f"The spectrum ends at {found.frequencies[-1]:g} Hz; {harmonics} times {frequency:g} Hz are not in it.")
    ratios = []
    for multiple in range(1, harmonics + 1):
        centre = multiple * frequency
        reach = max(slip * centre, step)
        peak = found.between(centre - reach, centre + reach).amplitudes.max()
        around = np.median(found.between(centre - _AROUND_HZ, centre + _AROUND_HZ).amplitudes)
        ratios.append(peak / max(float(around), np.finfo(np.float64).tiny))
    return float(np.mean(ratios))


def windows(samples: ArrayLike, rate: float, seconds: float) -> Numbers:
    """The signal cut into pieces that do not overlap, one per row; a rest that does not fill a piece is left out.

    Raises:
        ValueError: the signal is shorter than one piece.
    """
    values, size = np.asarray(samples, dtype=np.float64), round(rate * seconds)
    count = len(values) // size if size else 0
    if not count:
        raise ValueError(f"A signal of {len(values)} samples has no piece of {seconds:g} s at {rate:g} samples per second.")
    return values[: count * size].reshape(count, size)


def shape(samples: ArrayLike) -> dict[str, float]:
    """What is told of a signal without knowing the bearing.

    Returns:
        `rms` in the signal's unit; `kurtosis`, 0 for Gaussian noise and high for knocks; `crest`, the highest peak in rms.
    """
    values = np.asarray(samples, dtype=np.float64)
    values = values - values.mean()
    rms = float(np.sqrt(np.mean(values**2)))
    return {"rms": rms, "kurtosis": float(stats.kurtosis(values)), "crest": float(np.abs(values).max() / rms)}


def loudness(samples: ArrayLike, rate: float, bands: int = 12, highest: float = 20_000.0) -> Numbers:
    """The logarithm of the power in bands of equal width up to `highest` Hz: the sound of a machine as a few numbers."""
    frequencies, power = signal.welch(np.asarray(samples, dtype=np.float64), rate, nperseg=4096)
    edges = np.linspace(0.0, highest, bands + 1)
    inside = [(frequencies >= low) & (frequencies < high) for low, high in pairwise(edges)]
    return np.array([np.log(power[part].mean()) for part in inside])


def cut(healthy: ArrayLike, faulty: ArrayLike) -> float:
    """A threshold between two groups of positive numbers: in the middle of the gap on a logarithmic scale.

    Where they overlap there is no gap; then it is the threshold with the fewest errors, each group counting the same.
    """
    low, high = np.sort(np.asarray(healthy, dtype=np.float64)), np.sort(np.asarray(faulty, dtype=np.float64))
    if low[-1] < high[0]:
        return float(np.sqrt(low[-1] * high[0]))
    values = np.unique(np.concatenate([low, high]))
    alarms = 1.0 - np.searchsorted(low, values, side="left") / len(low)
    misses = np.searchsorted(high, values, side="left") / len(high)
    return float(values[np.argmin(alarms + misses)])


def with_noise(samples: ArrayLike, level: float, rng: np.random.Generator) -> Numbers:
    """The signal under white noise with so many times its own rms."""
    values = np.asarray(samples, dtype=np.float64)
    return values + level * values.std() * rng.normal(size=values.shape)


def knocks(seconds: float, rate: float, frequency: float, *, resonance: float = 4_000.0, seed: int = 0) -> Numbers:
    """A bearing that knocks so often a second, made up: decaying rings at a resonance, in a little noise.

    Its truth is known, so what finds a fault can be tried on it first.
    """
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    struck = np.zeros_like(times)
    # Between two knocks the rolling elements slip by some thousandths.
    at = np.cumsum(rng.normal(1.0, 0.003, size=int(seconds * frequency))) / frequency
    struck[np.minimum((at * rate).astype(int), len(times) - 1)] = 1.0
    ring = np.exp(-800.0 * times[: round(0.01 * rate)]) * np.sin(2.0 * np.pi * resonance * times[: round(0.01 * rate)])
    return signal.fftconvolve(struck, ring)[: len(times)] + 0.05 * rng.normal(size=len(times))
