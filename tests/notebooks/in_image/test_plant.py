from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from defectlab import plant
from defectlab.folders import DataError
from hypothesis import given, settings
from hypothesis import strategies as st

# In the order of `plant.TERMS`, about what a collector of this kind has.
TRUE = np.array([0.7, 0.1, 0.6, 3.0, 6000.0])


def sensors(seed: int = 0, days: int = 30) -> plant.Plant:
    """A plant that obeys the model to the last digit, in June."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2017-06-01", periods=days * 1440, freq="min")
    density, capacity = np.array([[0.0, 1040.0], [120.0, 960.0]]), np.array([[0.0, 3.6], [120.0, 4.0]])
    site = plant.Plant(pd.DataFrame(index=times), 500.0, 47.0, 15.4, 30.0, density, capacity)
    # One weather for each ten minutes, so that means over them lose nothing.
    tens = len(times) // plant.MINUTES
    cosine = plant.incidence(times[:: plant.MINUTES] + pd.Timedelta(minutes=plant.MINUTES / 2), site)
    beam = np.where(cosine > 0.1, rng.uniform(500, 900, tens), 0.0)
    diffuse = np.where(cosine > 0.1, rng.uniform(60, 200, tens), 0.0)
    air, middle = rng.uniform(285, 305, tens), rng.uniform(335, 355, tens)
    terms = np.column_stack([beam, -beam * (1 / np.maximum(cosine, 0.1) - 1), diffuse, -(middle - air), np.zeros(tens)])
    power = np.maximum(terms @ TRUE, 0.0)
    flow = np.full(tens, 1.5e-3)
    fluid = middle - plant.KELVIN
    rise = power * site.area / (flow * np.interp(fluid, *density.T) * 1000 * np.interp(fluid, *capacity.T))
    table = pd.DataFrame(
        {"vf": flow, "te_in": middle - rise / 2, "te_out": middle + rise / 2, "rd_gti": beam + diffuse, "rd_bti": beam,
         "rd_dti": diffuse, "te_amb": air, "is shadowed": 0.0}
    )  # fmt: skip
    minutes = table.loc[table.index.repeat(plant.MINUTES)].set_index(times)
    return plant.Plant(minutes, 500.0, 47.0, 15.4, 30.0, density, capacity)


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_the_fit_finds_the_truth_and_leaves_nothing_over(seed: int) -> None:
    site = sensors(seed)
    physics = plant.physics(plant.steady(site), site)
    # Nothing warms in this plant, so how much heat it stores cannot be told.
    assert plant.fit(physics)[:4] == pytest.approx(TRUE[:4], rel=0.01)
    residuals = plant.days(physics, plant.fit(physics))
    assert len(residuals) >= 25
    assert residuals.abs().max() < 1e-6


@pytest.mark.parametrize(("column", "factor", "expected"), [("vf", 0.97, -0.03), ("vf", 1.05, 0.05)])
def test_a_flow_meter_that_is_wrong_is_wrong_by_as_much(column: str, factor: float, expected: float) -> None:
    site = sensors()
    steady = plant.steady(site)
    coefficients = plant.fit(plant.physics(steady, site))
    spoilt = plant.physics(steady.assign(**{column: steady[column] * factor}), site)
    assert plant.days(spoilt, coefficients).mean() == pytest.approx(expected, abs=1e-6)


def test_only_steady_times_count() -> None:
    site = sensors(days=3)
    minutes = site.minutes.copy()
    minutes.loc["2017-06-01", "vf"] = 0.0
    minutes.loc["2017-06-02", "is shadowed"] = 1.0
    found = plant.steady(plant.Plant(minutes, 500.0, 47.0, 15.4, 30.0, site.density, site.capacity))
    assert set(found.index.day) == {3}
    assert (found["rd_gti"] > 600.0).all()


def test_gaps_do_not_count() -> None:
    site = sensors(days=2)
    minutes = site.minutes.copy()
    minutes.loc["2017-06-01"] = np.nan
    found = plant.steady(plant.Plant(minutes, 500.0, 47.0, 15.4, 30.0, site.density, site.capacity))
    assert set(found.index.day) == {2}


def test_the_sun_stands_square_to_the_collector_about_noon_in_spring() -> None:
    site = sensors(days=1)
    # South-facing at 30° in 47° north: the noon sun of late April meets it at right angles but for a few degrees.
    times = pd.date_range("2017-04-21", periods=1440, freq="min")
    cosine = plant.incidence(times, site)
    noon = times[cosine.argmax()]
    assert cosine.max() > 0.99
    # 15.4° east: solar noon is an hour before that of Greenwich.
    assert abs((noon - pd.Timestamp("2017-04-21 10:57")).total_seconds()) < 600
    assert cosine[0] < 0.0


def write(folder: Path, site: plant.Plant) -> None:
    for name in ("plants", "fluids"):
        (folder / name).mkdir()
    (folder / "dataset.json").write_text('{"format": 1, "name": "solar-thermal"}')
    site.minutes.rename_axis("timestamps_UTC").to_csv(folder / "plants" / "fhw.csv", sep=";")
    array = {"area_gr": {"magnitude": 500.0}, "tilt": {"magnitude": 30.0}}
    config = {"plant": {"latitude": {"magnitude": 47.0}, "longitude": {"magnitude": 15.4}, "arrays": [array]}}
    (folder / "plants" / "fhw.json").write_text(json.dumps(config))
    for name, table in (("density", site.density), ("heat-capacity", site.capacity)):
        np.savetxt(folder / "fluids" / f"pekasolar-{name}.csv", table, delimiter=",", header="X,Y", comments="")
    about = {"name": "fhw", "file": "plants/fhw.csv", "config": "plants/fhw.json", "separator": ";", "time": "timestamps_UTC"}
    (folder / "index.json").write_text(json.dumps({"format": 1, "plants": [about]}))


def test_a_plant_is_read_as_it_was_written(tmp_path: Path) -> None:
    site = sensors(days=1)
    write(tmp_path, site)
    found = plant.load(tmp_path)
    assert (found.area, found.latitude, found.longitude, found.tilt) == (500.0, 47.0, 15.4, 30.0)
    assert np.allclose(found.minutes, site.minutes[list(plant.COLUMNS)])
    assert found.minutes.index.equals(site.minutes.index.as_unit(found.minutes.index.unit))
    assert np.allclose(found.density, site.density)


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="your admin installs one"):
        plant.load(tmp_path)
    write(tmp_path, sensors(days=1))
    (tmp_path / "plants" / "fhw.csv").write_text("a;b\n1;2\n")
    with pytest.raises(DataError, match="names the bad file"):
        plant.load(tmp_path)
