from __future__ import annotations

import warnings

import pytest
import torch
from defectlab import precision
from defectlab.precision import NAMES, Precision, supported


@pytest.mark.parametrize("name", NAMES)
def test_every_precision_trains_a_step_on_a_cpu_without_a_warning(name: str) -> None:
    torch.manual_seed(0)
    layer, numbers = torch.nn.Linear(8, 1), Precision(name, "cpu")
    optimizer, scaler = torch.optim.SGD(layer.parameters(), lr=0.1), numbers.scaler()
    before = layer.weight.detach().clone()
    with warnings.catch_warnings(), numbers.matrices():
        warnings.simplefilter("error")
        with numbers.autocast():
            output = layer(torch.ones(4, 8))
            loss = output.float().pow(2).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert output.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    assert not torch.equal(layer.weight, before)
    assert layer.weight.dtype == torch.float32


def test_only_fp16_scales() -> None:
    assert [name for name in NAMES if Precision(name, "cpu").scaler().is_enabled()] == ["fp16"]


def test_the_switches_are_back_after_the_block() -> None:
    before = precision._switches()
    for name, wanted in (("tf32", ("tf32", True)), ("fp32", ("ieee", False)), ("bf16", ("ieee", False))):
        with Precision(name, "cuda").matrices():
            assert all(switch in wanted for switch in precision._switches())
        assert precision._switches() == before
    with pytest.raises(RuntimeError, match="boom"), Precision("tf32", "cuda").matrices():
        raise RuntimeError("boom")
    assert precision._switches() == before
    # The old way to ask still works, so nothing was left half in the new one.
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_cpu_has_no_tf32() -> None:
    assert [name for name in NAMES if supported(name, "cpu")] == ["fp32", "bf16", "fp16"]


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of fp32, tf32, bf16, fp16"):
        Precision("fp8", "cpu")
