"""What the ledger reads for a choice is only what the choice can depend on; nobody is to notice that it is not everything."""

import dataclasses
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from spawner import sharing
from spawner.errors import NoGpuFree
from spawner.grants import SharingRule
from spawner.ledger import Ledger
from spawner.model import Gpu, GpuRequest, Holder, Lease
from spawner.placement import packed
from spawner.records import Grant
from tests.unit.values import T0, make_gpu, make_lease

MODELS = ("L4", "H100")
# Devices that are whole, in seats, or beside their own MIG instances: a card changes its shape while a lease goes on.
DEVICES = [dataclasses.replace(make_gpu(number, node="ab"[number % 2]), model=MODELS[number % 2]) for number in range(6)]
SEATED = SharingRule(frozenset({DEVICES[2].uuid, DEVICES[3].uuid}), frozenset(), 2)
INSTANCES = [
    dataclasses.replace(device, uuid=f"MIG-{device.uuid[4:-1]}{number}", parent=device.uuid, memory_mib=8_000)
    for device in DEVICES[4:]
    for number in (8, 9)
]
UNITS = [*sharing.units(DEVICES, [SEATED]), *INSTANCES]
# Held under names of an earlier shape too.
NAMES = sorted(
    {unit.uuid for unit in UNITS} | {unit.device for unit in UNITS} | {f"{DEVICES[0].uuid}#1", f"{INSTANCES[0].uuid}#0"}
)
REQUESTS = st.builds(
    GpuRequest,
    st.just("p"),
    st.integers(1, 2),
    st.sampled_from([(), ("L4",), ("H100",), MODELS]),
    st.sampled_from([0, 8_000, 20_000]),
    st.sampled_from(["exclusive", "mig", "shared"]),
)


def admit_all(request: GpuRequest, _holder: Holder, _standing: object) -> Grant:
    return Grant(request)


def with_all_in_sight(request: GpuRequest, held: set[str]) -> tuple[str, ...]:
    try:
        return packed(request, UNITS, [make_lease(gpus=tuple(held))])
    except NoGpuFree:
        return ()


@given(REQUESTS, st.sets(st.sampled_from(NAMES)))
def test_the_ledger_gives_what_a_choice_among_everything_gives(request: GpuRequest, held: set[str]):
    expected = with_all_in_sight(request, held)

    def hold(_request: GpuRequest, _gpus: object, _leases: object) -> tuple[str, ...]:
        return tuple(held)

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(f"sqlite:///{Path(folder) / 'ledger.sqlite'}")
        try:
            ask(ledger, GpuRequest("p", len(held), wait=False), "holder", hold)
            given_now = ask(ledger, request, "ana", packed)
        finally:
            ledger.close()
    assert given_now == expected


def ask(ledger: Ledger, request: GpuRequest, name: str, choose) -> tuple[str, ...]:
    try:
        got = ledger.acquire(request, Holder(name), UNITS, lease_id=name, now=T0, admit=admit_all, choose=choose)
    except NoGpuFree:
        return ()
    return got.gpus if isinstance(got, Lease) else ()


def test_of_a_big_lab_only_few_units_are_looked_at():
    many = [*UNITS, *(Gpu(f"GPU-{number}", "c", number, "A100", 80_000) for number in range(1000))]
    near = sharing.near(many, GpuRequest("p", 1, ("L4",)))
    assert {unit.device for unit in near} < {unit.device for unit in UNITS}
    assert sharing.devices(near) == {DEVICES[0].uuid, DEVICES[4].uuid, *(unit.uuid for unit in INSTANCES[:2])}
