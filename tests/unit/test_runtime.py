from pathlib import Path

from spawner.engine import Engine
from spawner.errors import InventoryError
from spawner.inventory import StaticInventory
from spawner.ledger import Ledger
from spawner.model import GpuRequest
from spawner.runtime import Lab
from tests.unit.values import T0, make_gpu, shipped_config

GPUS = [make_gpu(i) for i in range(4)]
NEAR = frozenset({GPUS[1].uuid, GPUS[3].uuid})


class Broken(StaticInventory):
    def links(self):
        raise InventoryError("The driver does not answer.")


def lab(inventory: StaticInventory, folder: Path) -> Lab:
    return Lab(shipped_config(), Ledger.open(f"sqlite:///{folder / 'l.sqlite'}"), Engine(), inventory, lambda: T0)


def test_two_gpus_are_those_that_are_close_to_each_other(tmp_path: Path):
    opened = lab(StaticInventory(GPUS, {NEAR: 5}), tmp_path)
    assert set(opened.place(GpuRequest("p", 2), GPUS, [])) == NEAR
    opened.ledger.close()


def test_a_driver_that_does_not_tell_how_close_gpus_are_costs_no_lab(tmp_path: Path):
    opened = lab(Broken(GPUS), tmp_path)
    assert len(opened.place(GpuRequest("p", 2), GPUS, [])) == 2
    opened.ledger.close()
