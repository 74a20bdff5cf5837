"""The journal tells which settings changed between two starts of the hub."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner import labfile
from spawner.errors import ConfigError
from spawner.ledger import Ledger
from spawner.ledger.settings import MOST_CHANGES, changes
from tests.unit.values import SHIPPED, T0, after

SETTINGS = st.dictionaries(st.sampled_from("abcdefgh"), st.text(max_size=3))


@pytest.fixture
def ledger(tmp_path: Path):
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


def test_a_changed_limit_stands_in_the_journal_with_both_values(ledger: Ledger, tmp_path: Path):
    file = tmp_path / "lab.yaml"
    file.write_text(SHIPPED.read_text())
    ledger.note_settings(labfile.settings(file), T0)
    assert ledger.events() == ()
    file.write_text(SHIPPED.read_text().replace("servers_per_user: 3", "servers_per_user: 5"))
    assert ledger.note_settings(labfile.settings(file), after(60))
    assert not ledger.note_settings(labfile.settings(file), after(120))
    (event,) = ledger.events()
    assert (event.actor, event.action, event.at) == ("lab.yaml", "lab.configured", after(60))
    assert event.detail == {"limits.servers_per_user": "3 → 5"}


def test_a_change_of_many_keys_is_told_in_few_words():
    told = changes({}, {f"key{number:02}": "x" * 1000 for number in range(50)})
    assert len(told) == MOST_CHANGES + 1
    assert told["and more"] == "30"
    assert told["key00"].startswith("not set → xxx")
    assert max(map(len, told.values())) < 200


@given(SETTINGS, SETTINGS)
def test_what_differs_is_told_and_nothing_else(before, later):
    assert set(changes(before, later)) == {key for key in "abcdefgh" if before.get(key) != later.get(key)}


def test_a_key_that_was_taken_out_is_told():
    assert changes({"a": "1"}, {}) == {"a": "1 → not set"}


def test_settings_that_cannot_be_read_are_refused_in_words(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        labfile.settings(tmp_path / "none.yaml")
