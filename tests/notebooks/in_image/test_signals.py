from __future__ import annotations

import numpy as np
import pytest
from defectlab import signals
from hypothesis import given, settings
from hypothesis import strategies as st

RATE = 48_828.0


@settings(max_examples=25)
@given(frequency=st.floats(40.0, 150.0), resonance=st.floats(3_000.0, 9_000.0), seed=st.integers(0, 1000))
def test_the_envelope_finds_a_fault_wherever_it_knocks_and_rings(frequency: float, resonance: float, seed: int) -> None:
    found = signals.envelope_spectrum(signals.knocks(1.0, RATE, frequency, resonance=resonance, seed=seed), RATE)
    assert signals.prominence(found, frequency) > 10.0
    # The highest line between half a knock and one and a half is the knock's own.
    near = found.between(0.6 * frequency, 1.4 * frequency)
    assert near.frequencies[near.amplitudes.argmax()] == pytest.approx(frequency, rel=0.01)


@settings(max_examples=25)
@given(frequency=st.floats(40.0, 150.0), seed=st.integers(0, 1000))
def test_noise_has_no_fault(frequency: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=int(RATE / 2))
    assert signals.prominence(signals.envelope_spectrum(noise, RATE), frequency) < 5.0


@settings(max_examples=25)
@given(gain=st.floats(0.01, 100.0), offset=st.floats(-5.0, 5.0))
def test_prominence_has_no_unit(gain: float, offset: float) -> None:
    signal = signals.knocks(0.5, RATE, 80.0)
    plain = signals.prominence(signals.envelope_spectrum(signal, RATE), 80.0)
    assert signals.prominence(signals.envelope_spectrum(gain * signal + offset, RATE), 80.0) == pytest.approx(plain, rel=1e-3)


@given(st.floats(20.0, 9_000.0), st.floats(0.1, 10.0))
@settings(max_examples=25)
def test_a_sine_shows_with_its_own_height(frequency: float, height: float) -> None:
    times = np.arange(20_000) / 20_000.0
    found = signals.spectrum(3.0 + height * np.sin(2 * np.pi * frequency * times), 20_000.0)
    assert found.amplitudes.max() == pytest.approx(height, rel=0.02)
    assert found.frequencies[found.amplitudes.argmax()] == pytest.approx(frequency, abs=0.5)


def test_the_envelope_of_a_modulated_tone_is_its_modulation() -> None:
    times = np.arange(50_000) / 50_000.0
    slow = 1.0 + 0.5 * np.cos(2 * np.pi * 30.0 * times)
    found = signals.envelope(slow * np.sin(2 * np.pi * 5_000.0 * times), 50_000.0)
    middle = slice(2_000, -2_000)
    assert np.abs(found[middle] - slow[middle]).max() < 0.02


@pytest.mark.parametrize("band", [(0.0, 1000.0), (2000.0, 1000.0), (1000.0, 30_000.0)])
def test_a_band_that_is_none_is_refused(band: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="half the sampling rate"):
        signals.envelope(np.zeros(1000), RATE, band)


def test_a_spectrum_that_is_too_short_is_refused() -> None:
    found = signals.spectrum(np.random.default_rng(0).normal(size=1000), 400.0)
    with pytest.raises(ValueError, match="ends at 200 Hz"):
        signals.prominence(found, 90.0)


@given(st.integers(1, 500), st.integers(1, 50))
def test_windows_do_not_overlap_and_lose_only_a_rest(length: int, size: int) -> None:
    values = np.arange(length, dtype=float)
    if length < size:
        with pytest.raises(ValueError, match="no piece"):
            signals.windows(values, float(size), 1.0)
        return
    found = signals.windows(values, float(size), 1.0)
    assert found.shape == (length // size, size)
    assert found.ravel().tolist() == values[: found.size].tolist()


def test_shape_tells_knocks_from_noise() -> None:
    noise = np.random.default_rng(0).normal(2.0, 3.0, size=50_000)
    told = signals.shape(noise)
    assert told["rms"] == pytest.approx(3.0, rel=0.02)
    assert abs(told["kurtosis"]) < 0.1
    assert signals.shape(signals.knocks(1.0, RATE, 80.0))["kurtosis"] > 1.0


def test_loudness_is_high_where_the_tone_is() -> None:
    times = np.arange(100_000) / 50_000.0
    found = signals.loudness(np.sin(2 * np.pi * 7_000.0 * times), 50_000.0, bands=10)
    assert found.argmax() == 3
    assert len(found) == 10


@given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=20), st.lists(st.floats(0.1, 100.0), min_size=1, max_size=20))
def test_a_cut_has_the_fewest_errors(healthy: list[float], faulty: list[float]) -> None:
    def errors(threshold: float) -> float:
        return float(np.mean(np.array(healthy) >= threshold) + np.mean(np.array(faulty) < threshold))

    # Above all of them is a threshold, too: it gives one error in sum.
    best = min(errors(value) for value in [*healthy, *faulty])
    assert errors(signals.cut(healthy, faulty)) <= best + 1e-9


def test_noise_comes_in_multiples_of_the_signal() -> None:
    signal = signals.knocks(1.0, RATE, 80.0)
    noisy = signals.with_noise(signal, 2.0, np.random.default_rng(0))
    assert (noisy - signal).std() == pytest.approx(2.0 * signal.std(), rel=0.02)
