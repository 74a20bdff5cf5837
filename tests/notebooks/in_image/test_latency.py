from __future__ import annotations

import gc
import time

import numpy as np
import pytest
from defectlab import latency
from hypothesis import given
from hypothesis import strategies as st


@given(times=st.lists(st.floats(0.01, 1e4), min_size=1, max_size=400))
def test_the_figures_are_in_order_and_within_the_times(times: list[float]) -> None:
    found = latency.summarised("x", np.array(times))
    slack = 1e-9 * max(times)
    assert min(times) - slack <= found.p50 <= found.p95 + slack <= found.p99 + 2 * slack <= found.worst + 3 * slack
    assert found.worst == max(times)
    assert found.low99 - slack <= found.high99 <= found.worst
    assert found.calls == len(times)


def test_the_99th_percentile_of_1000_calls() -> None:
    found = latency.summarised("x", np.random.default_rng(0).permutation(np.arange(1.0, 1001.0)))
    assert found.p50 == pytest.approx(500.5)
    assert found.p99 == pytest.approx(990, abs=1)
    assert 980 <= found.low99 < found.p99 < found.high99 <= 1000


def test_warm_up_is_not_counted_and_the_collector_rests() -> None:
    calls: list[bool] = []
    waits: list[int] = []

    def call() -> None:
        calls.append(gc.isenabled())
        if len(calls) <= 3:
            time.sleep(0.05)

    found = latency.measure("x", call, calls=10, warmup=3, wait=lambda: waits.append(1))
    assert len(calls) == 13
    assert calls[3:] == [False] * 10
    assert gc.isenabled()
    assert len(waits) == 11
    assert found.worst < 50
    assert "p99" in str(found)
    assert "10 calls" in str(found)


def test_a_picture_comes_out_as_it_went_in() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    content = latency.encode(image)
    assert np.array_equal(latency.decode(content, (40, 60))[0], image)
    assert latency.decode(content, (20, 30)).shape == (1, 20, 30)
