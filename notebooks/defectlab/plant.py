"""A solar-thermal plant: from minutes of its sensors to what it should have delivered.

Owns reading the year of `gpulab data get solar-thermal` (plant `fhw`), which minutes count, and the physics of a collector. Never
judges: `drift` does.

A collector takes in sunlight and loses heat to the air. With beam and diffuse irradiance in its plane, the fluid's mean
temperature and the air's, its power per square metre is nearly

    gain × beam - slant × beam × (1/cos(angle) - 1) + diffuse gain × diffuse - loss × (fluid - air) - store × warming

(the quasi-dynamic model of ISO 9806 in its simplest form). Five numbers, each with a meaning, are fitted by least squares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from defectlab import folders
from defectlab.folders import DataError

COLUMNS = ("vf", "te_in", "te_out", "rd_gti", "rd_bti", "rd_dti", "te_amb", "is shadowed")
TERMS = ("beam", "slant", "diffuse", "loss", "store")
KELVIN = 273.15
MINUTES = 10


@dataclass(frozen=True, slots=True)
class Plant:
    """A plant's year.

    Attributes:
        minutes: sensors by minute, in UTC and SI units; gaps are NaN.
        area: of the collectors, m² gross.
        latitude, longitude, tilt: degrees; the collectors face south.
        density, capacity: of the fluid: rows of temperature in °C, and kg/m³ or kJ/(kg K).
    """

    minutes: pd.DataFrame
    area: float
    latitude: float
    longitude: float
    tilt: float
    density: NDArray[np.float64]
    capacity: NDArray[np.float64]


def load(folder: Path | str) -> Plant:
    """Read plant `fhw`.

    Raises:
        DataError: there is no data set, or a file of it cannot be read.
    """
    folder = Path(folder)
    folders.describe(folder)
    try:
        listed = json.loads((folder / "index.json").read_text("utf-8"))["plants"]
        about = next(plant for plant in listed if plant["name"] == "fhw")
        config = json.loads((folder / about["config"]).read_text("utf-8"))["plant"]
        minutes = pd.read_csv(
            folder / about["file"],
            sep=about["separator"],
            usecols=[about["time"], *COLUMNS],
            parse_dates=[about["time"]],
            index_col=about["time"],
        )
        fluid = [np.loadtxt(folder / "fluids" / f"pekasolar-{name}.csv", delimiter=",", skiprows=1)
                 for name in ("density", "heat-capacity")]  # fmt: skip
        array = config["arrays"][0]
        return Plant(
            minutes=minutes[list(COLUMNS)],
            area=float(array["area_gr"]["magnitude"]),
            latitude=float(config["latitude"]["magnitude"]),
            longitude=float(config["longitude"]["magnitude"]),
            tilt=float(array["tilt"]["magnitude"]),
            density=fluid[0],
            capacity=fluid[1],
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
        raise DataError(f"The plant in {folder} cannot be read ({error}): `gpulab data verify` names the bad file.") from None


def steady(plant: Plant, *, sun: float = 600.0, warming: float = 0.003, flow: float = 5e-4) -> pd.DataFrame:
    """Means over ten minutes of the times that count: sun on all rows, fluid running, and nothing changing fast.

    Args:
        plant: the year.
        sun: least irradiance in the collectors' plane, W/m².
        warming: most change of the fluid's temperature, K/s; what is in the pipes and not what the sun gives would count else.
        flow: least flow, m³/s.
    """
    minutes = plant.minutes
    middle = (minutes["te_in"] + minutes["te_out"]) / 2.0
    running = (minutes["vf"] > flow) & minutes["te_in"].notna()
    table = minutes.resample(f"{MINUTES}min").mean()
    table["running"] = running.astype(float).resample(f"{MINUTES}min").mean()
    ends = middle.resample(f"{MINUTES}min")
    table["warming"] = (ends.last() - ends.first()) / (60.0 * (MINUTES - 1))
    table["cosine"] = incidence(pd.DatetimeIndex(table.index) + pd.Timedelta(minutes=MINUTES / 2), plant)
    good = (table["running"] == 1.0) & (table["is shadowed"] == 0.0) & (table["rd_gti"] > sun)
    return table[good & (table["warming"].abs() < warming) & (table["cosine"] > 0.8)].copy()


def incidence(times: pd.DatetimeIndex, plant: Plant) -> NDArray[np.float64]:
    """The cosine of the angle between the sun and the normal of a south-facing collector .

    Cooper's declination and the usual short equation of time: right to about a degree.
    """
    day = times.day_of_year.to_numpy(dtype=np.float64)
    hour = times.hour.to_numpy(dtype=np.float64) + times.minute.to_numpy(dtype=np.float64) / 60.0
    year = 2.0 * np.pi * (day - 81.0) / 364.0
    minutes_ahead = 9.87 * np.sin(2.0 * year) - 7.53 * np.cos(year) - 1.5 * np.sin(year)
    declination = np.radians(23.45) * np.sin(2.0 * np.pi * (284.0 + day) / 365.0)
    angle = np.radians(15.0 * (hour + plant.longitude / 15.0 + minutes_ahead / 60.0 - 12.0))
    height = np.radians(plant.latitude - plant.tilt)
    found: NDArray[np.float64] = np.sin(declination) * np.sin(height) + np.cos(declination) * np.cos(height) * np.cos(angle)
    return found


def physics(table: pd.DataFrame, plant: Plant) -> pd.DataFrame:
    """What the sensors say in the model's terms: `power` in W/m², and a column per term with a positive coefficient.

    Args:
        table: of `steady`, or the same with a sensor made wrong.
        plant: for area and fluid.
    """
    fluid = (table["te_in"] + table["te_out"]) / 2.0 - KELVIN
    density = np.interp(fluid, *plant.density.T)
    capacity = 1000.0 * np.interp(fluid, *plant.capacity.T)
    return pd.DataFrame(
        {
            "power": table["vf"] * density * capacity * (table["te_out"] - table["te_in"]) / plant.area,
            "beam": table["rd_bti"],
            "slant": -table["rd_bti"] * (1.0 / table["cosine"] - 1.0),
            "diffuse": table["rd_dti"],
            "loss": -(fluid - (table["te_amb"] - KELVIN)),
            "store": -table["warming"],
        },
        index=table.index,
    )


def fit(found: pd.DataFrame) -> NDArray[np.float64]:
    """The five coefficients, in the order of `TERMS`, by least squares."""
    return np.linalg.lstsq(found[list(TERMS)].to_numpy(), found["power"].to_numpy(), rcond=None)[0]


def days(found: pd.DataFrame, coefficients: NDArray[np.float64], *, least: int = 6) -> pd.Series:
    """Measured energy against expected, less one, per day; days with fewer than `least` tens of minutes say nothing."""
    expected = pd.Series(found[list(TERMS)].to_numpy() @ coefficients, index=found.index)
    sums = pd.DataFrame({"power": found["power"], "expected": expected}).resample("1D").agg(["sum", "count"])
    enough = sums[("expected", "count")] >= least
    ratio: pd.Series = (sums[("power", "sum")] / sums[("expected", "sum")] - 1.0)[enough]
    return ratio.rename("residual")
