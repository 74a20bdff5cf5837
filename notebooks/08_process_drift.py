# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · Has the process drifted?
#
# | | to expect |
# | --- | --- |
# | time on two CPU cores | about 10 seconds |
# | time on a GPU | the same; nothing here uses one |
# | memory | 0.5 GB |
# | network | none |
#
# **Aim.** A plant that runs a little worse each week raises no alarm of its own. We build an expectation from physics, watch
# what is left over with control charts, and put a fault of known size into the sensors to learn how soon it is noticed and how
# often the chart cries for nothing. Last: when to train again, and why doing it every month hides what you look for.
#
# **Data and licence.** `solar-thermal`: a year of minutes from a solar-thermal plant in Graz, copyright SOLID Solar Energy
# Systems GmbH and others, licence CC BY-SA 4.0 (say whose it is; pass changed data on under the same licence). Your admin
# installs it with `gpulab data get solar-thermal`. **There are no failure labels**: nobody wrote down when the plant was all
# right. Whatever we say about detection is therefore about faults that we put in ourselves.

# %%
import os
from itertools import pairwise

import numpy as np
import pandas as pd
from defectlab import charts, drift, figures, lab, plant, plots

try:
    import statsmodels.api as sm
except ModuleNotFoundError:
    raise ModuleNotFoundError("This notebook needs statsmodels: start a lab with the profile 'Predictive maintenance'.") from None

SMOKE = os.environ.get("GPULAB_SMOKE") == "1"  # a short trial run: fewer made-up histories
site = plant.load(lab.data_folder() / "solar-thermal")
minutes = site.minutes
print(f"{len(minutes):,} minutes, {minutes['te_in'].notna().mean():.0%} of them with data; {site.area:.0f} m² of collectors")
daylight = minutes[minutes["rd_gti"] > 50]
by_month = daylight.groupby(daylight.index.month)[["te_amb", "rd_gti"]].mean()
plots.bars(
    {f"month {month}": row["te_amb"] - plant.KELVIN for month, row in by_month.iterrows()},
    title="The season moves everything",
    label="mean air temperature by day (°C)",
)

# %% [markdown]
# **Reading.** That is the difficulty in one picture: inputs change by the season, much more than any fault would change them.
# Whoever watches raw values gets an alarm in every spring.
#
# ## What the plant should deliver
#
# A collector takes in sunlight and loses heat to the air:
#
# `power = gain × beam − slant × … + diffuse gain × diffuse − loss × (fluid − air) − store × warming`
#
# Five coefficients, each with a meaning (the docstring of `defectlab.plant` has the rest). We use only *steady* times: strong
# sun on all rows, fluid running, temperatures at rest. What is thrown away is most of the year; what is left can be compared.

# %%
steady = plant.steady(site)
physics = plant.physics(steady, site)
WATCH = pd.Timestamp("2017-06-16")  # learnt before, watched from then on
learn = physics[physics.index < WATCH]
coefficients = plant.fit(learn)
residuals = plant.days(physics, coefficients)
known, watched = residuals[residuals.index < WATCH], residuals[residuals.index >= WATCH]
print(f"{len(steady):,} steady tens of minutes; {len(known)} days to learn from, {len(watched)} days to watch")

terms = list(plant.TERMS)
naive = sm.OLS(learn["power"], learn[terms]).fit()
honest = sm.OLS(learn["power"], learn[terms]).fit(cov_type="HAC", cov_kwds={"maxlags": 60})
assert np.allclose(honest.params, coefficients)
widening = honest.bse / naive.bse
print("            found   error as if independent → error that allows for it")
for name in terms:
    print(f"{name:8} {honest.params[name]:9.3f}{naive.bse[name]:11.3f} → {honest.bse[name]:.3f} ({widening[name]:.1f} times)")

# %% [markdown]
# **Reading.** The gain is what collectors of this kind have, and the loss is a few watts per square metre and kelvin: the model
# makes sense, which no neural network would tell you. Mind the errors. Least squares takes every ten minutes for a new
# experiment; but ten minutes later the same cloud is still there. Errors that allow for that (Newey and West; `statsmodels` has
# them) are up to three times as large. Anyone who compares two fits by the first column finds "significant" changes everywhere.
#
# ## What is left over
#
# Per day: energy measured against energy expected, less one. Two charts watch it. The **EWMA** is a mean that forgets. The
# **CUSUM** adds up whatever exceeds half a standard deviation, so a small change that lasts gets there in the end. Limits are
# the ones that textbooks give.

# %%
units = drift.standard(watched, known)
TEXTBOOK = 5.0
by_the_book = {
    "CUSUM": (watched.index, drift.cusum(units, limit=TEXTBOOK)),
    "EWMA": (watched.index, drift.ewma(units, limit=3.0)),
}
for name, (times, one) in by_the_book.items():
    first = int(one.first)
    print(f"{name:6} first alarm after {first} watched days" if first < len(times) else f"{name:6} no alarm")
charts.control(residuals, by_the_book, learnt_until=WATCH, title="Energy against expectation, and two charts")

# %% [markdown]
# **Reading.** The charts alarm, and the dots agree: measured energy sinks against expectation, steadily, until autumn. **Is
# that a fault?** We do not know. Dust on the glass would look like this, and so would a pyranometer whose glass gets *cleaner*,
# a flow meter that loses a little, or a term that the model lacks. One number cannot tell these apart; a cleaning day, or a
# second pyranometer, would. A chart says *look here*; it does not say what is there.

# %%
start = residuals.index[0]
flat, slope = drift.without_trend(residuals, (residuals.index - start).days)
spread = float(flat.std(ddof=1))
alike = [float(np.corrcoef(flat[:-lag], flat[lag:])[0, 1]) for lag in (1, 2, 3)]
print(f"straight line through all days: {30 * slope:+.2%} in thirty days; spread around it {spread:.2%} a day")
print("how alike are days that follow each other (correlation): " + ", ".join(f"{value:.2f}" for value in alike))

# %% [markdown]
# ## How often would it cry for nothing?
#
# To count false alarms one needs a plant of which one *knows* that nothing happened. There is none, so we make one: the days
# without their straight line, drawn again in blocks of seven so that neighbours stay alike. That takes the slow decline for the
# only thing that happened this year, which is an assumption; whatever else happened counts as noise and makes our limits too
# careful.

# %%
SEASON, DRAWS = 100, 200 if SMOKE else 4000
noise = flat / spread
quiet = drift.histories(noise, SEASON, DRAWS, seed=0)
textbook_world = np.random.default_rng(0).normal(size=(DRAWS, SEASON))
CHARTS = {
    "CUSUM": lambda values, limit: drift.cusum(values, limit=limit),
    "EWMA": lambda values, limit: drift.ewma(values, limit=limit),
}
promised = float(np.mean(CHARTS["CUSUM"](textbook_world, TEXTBOOK).first < SEASON))
real = float(np.mean(CHARTS["CUSUM"](quiet, TEXTBOOK).first < SEASON))
print(f"CUSUM, textbook limit, a season of {SEASON} days without change: false alarm in {promised:.0%} if days were independent,")
print(f"in {real:.0%} with days as they are")
limits = {name: drift.limit_for(lambda limit, chart=chart: chart(quiet, limit), silent=0.95) for name, chart in CHARTS.items()}
independent = {
    name: drift.limit_for(lambda limit, chart=chart: chart(textbook_world, limit), silent=0.95) for name, chart in CHARTS.items()
}
plots.bars(
    {
        f"{name}, {kind}": found[name]
        for name in CHARTS
        for kind, found in (("independent days", independent), ("real days", limits))
    },
    title="Limits that keep 95 % of quiet seasons silent",
    label="limit (standard deviations)",
)

# %% [markdown]
# **Reading.** The textbook's promise rests on independent days: with those, its limit cries in 18 % of quiet seasons. Weather
# comes in spells, days are alike, runs of bad days add up, and in the full run the same limit cries in 81 % of ours. The remedy
# is not a cleverer chart but an honest limit, from your own quiet days. It costs patience: the next picture shows how much.
#
# ## How soon is a known fault noticed?
#
# Two faults, put into the *sensors* and sent through everything that follows: the outlet's thermometer reads half a kelvin low,
# and the flow meter loses three per cent. What do they do to the daily number?

# %%
FAULTS = {
    "outlet reads 0.5 K low": lambda table: table.assign(te_out=table["te_out"] - 0.5),
    "outlet reads 1 K low": lambda table: table.assign(te_out=table["te_out"] - 1.0),
    "flow meter loses 3 %": lambda table: table.assign(vf=table["vf"] * 0.97),
}
effects = {}
for name, spoil in FAULTS.items():
    spoilt = plant.days(plant.physics(spoil(steady), site), coefficients)
    effects[name] = float((spoilt - residuals).mean())
    print(f"{name:24} {effects[name]:+.1%} of the day's energy")

# %%
BEFORE, AFTER = 40, 120
base = drift.histories(noise, BEFORE + AFTER, DRAWS, seed=1)
since = np.maximum(np.arange(BEFORE + AFTER) - BEFORE + 1, 0)
sizes = (0.01, 0.02, 0.03, 0.04, 0.06)
waited: dict[str, tuple[tuple[float, ...], list[float]]] = {name: (sizes, []) for name in CHARTS}
for size in sizes:
    for name, chart in CHARTS.items():
        found = drift.delays(chart(base - size / spread * (since > 0), limits[name]), BEFORE)
        waited[name][1].append(float(np.quantile(found, 0.5, method="higher")) + 1)
creeping = {name: drift.delays(chart(base - 0.01 / 30 / spread * since, limits[name]), BEFORE) for name, chart in CHARTS.items()}
for name, found in creeping.items():
    half, most = (float(np.quantile(found, share, method="higher")) + 1 for share in (0.5, 0.9))
    print(f"{name:6} one per cent in thirty days: half are found within {half:.0f} days, nine of ten within {most:.0f}")
plots.lines(waited, title="Delay until a step is noticed (median)", xlabel="lost energy (share)", ylabel="days with sun")

# %% [markdown]
# **Reading.** Large faults are found in days, small ones in weeks: below about the spread of a single day, patience is the only
# detector. Both charts are alike, and both were given the same right to cry (one quiet season in twenty). Compare with what the
# fault *costs*: a small loss that is found late may be cheaper than a technician who comes for nothing.
#
# ## The season against the fault
#
# Many monitoring systems compare distributions instead: *population stability* between a reference and the last month, bold
# above the customary mark. Here for inputs, for power itself, and for what is left over; and the last with a fault of known
# size.

# %%
frame = physics.assign(
    **{
        "air temperature": steady["te_amb"],
        "fluid temperature": (steady["te_in"] + steady["te_out"]) / 2,
        "irradiance": steady["rd_gti"],
    }
)
frame["left over"] = physics["power"] / (physics[terms].to_numpy() @ coefficients) - 1.0
fault = plant.physics(FAULTS["outlet reads 1 K low"](steady), site)
frame["power, with the fault"] = fault["power"]
frame["left over, with the fault"] = fault["power"] / (fault[terms].to_numpy() @ coefficients) - 1.0
months = sorted(set(frame.index[frame.index >= WATCH].month))
table: dict[str, list[float]] = {}
for name in ("air temperature", "fluid temperature", "irradiance", "power", "power, with the fault", "left over",
             "left over, with the fault"):  # fmt: skip
    reference = frame.loc[frame.index < WATCH, name.removesuffix(", with the fault")]
    recent = [frame.loc[(frame.index >= WATCH) & (frame.index.month == month), name] for month in months]
    table[name] = [drift.population_stability(reference, values) for values in recent]
charts.stability(table, [str(month) for month in months], title="Population stability against the months learnt from")

# %% [markdown]
# **Reading.** Temperatures moved in every month though nothing broke: it was summer. Power moves with the season as well: late
# in summer it is above the mark with no fault put in, so being above the mark says nothing. What is left over rises most when
# the fault is there; that it is above the mark without one is the plant's own decline (and the mark is a rule of thumb that
# knows nothing of days that are alike). So: watch *inputs* to know whether the model is asked about weather that it has not
# seen; watch *residuals* to know whether the plant still does what it did. Neither replaces the other.
#
# ## To train again, or not?
#
# The usual advice is to train again each month. We try it: a model from the last thirty days, renewed at the first of each
# month, against the one from spring that stays, both under the CUSUM with our own limit. Once with the plant as it is, and once
# with an outlet thermometer that creeps to one kelvin low over ninety days.


# %%
def renewed(found: pd.DataFrame) -> pd.Series:
    """Residuals of models that are trained again at the first of each month."""
    parts = []
    for _, rows in found[found.index >= WATCH].groupby(found.index[found.index >= WATCH].month):
        since = max(WATCH, rows.index[0].normalize().replace(day=1))
        before = found[(found.index < since) & (found.index >= since - pd.Timedelta(days=30))]
        parts.append(plant.days(rows, plant.fit(before)))
    return pd.concat(parts)


creep = np.clip((steady.index - WATCH).days / 90, 0, 1)
crept = plant.physics(steady.assign(te_out=steady["te_out"] - creep), site)
ends: dict[str, float] = {}
silence: dict[str, int] = {}
for world, found in {"as it is": physics, "with the fault": crept}.items():
    for policy, left in {"model of spring": plant.days(found, coefficients), "renewed monthly": renewed(found)}.items():
        left = left[left.index >= WATCH]
        first = int(drift.cusum((left - known.mean()) / spread, limit=limits["CUSUM"]).first)
        ends[f"{world}, {policy}"], silence[f"{world}, {policy}"] = float(left[-10:].mean()), first
        print(f"{world:15} {policy:16} last ten days {ends[f'{world}, {policy}']:+.1%}, "
              + (f"alarm after {first} days" if first < len(left) else "no alarm"))  # fmt: skip
plots.bars(
    {name: -100 * value for name, value in ends.items()},
    title="What the chart still sees of it at the end",
    label="measured below expected, last ten days (%)",
)

# %% [markdown]
# **Reading.** The renewed model learns the decline as the new normal, month by month, and hides most of what we were to find. In
# the run whose figures are kept with this lab's sources it shows less than a third of the loss at the end, and its alarm for
# the fault comes after 26 days, not 15; without the fault it gives none. Mind that the model of spring cries after 21 days
# without the fault, too: the plant declines by itself, and one chart cannot tell the two apart.
#
# Training again is right when the *question* changed and wrong when the *plant* did:
#
# | inputs | residuals | do |
# | --- | --- | --- |
# | as learnt | quiet | nothing |
# | moved | quiet | nothing yet; the physics carries over. Keep the new weather for the next training |
# | as learnt | alarm | look at plant and sensors. **Do not train** |
# | moved | alarm | check the plant first; train again only on days after a check that found it sound |
#
# And keep the old model: its residuals over years are the plant's history.
#
# ## What we learnt
#
# - Physics first: five coefficients made a summer comparable with a spring. Errors of fits must allow for days that are alike.
# - Limits come from your own quiet days; the textbook's are for independent ones, and cry several times as often here.
# - Put in a fault of known size: that gives delay and false alarms without a single failure label. It says nothing about faults
#   that look otherwise.
# - This plant declines by about a per cent in a month, and nobody can say from these data why.
# - A model that is trained again on drifting data makes drift look small, and the alarm come late or never.

# %%
figures.record(
    {
        "steady_tens_of_minutes": len(steady),
        "days_learnt": len(known),
        "days_watched": len(watched),
        "error_widening_most": float(widening.max()),
        "decline_per_thirty_days": -30 * slope,
        "spread_of_a_day": spread,
        "false_alarm_seasons": {"independent days": promised, "real days": real},
        "limit": limits,
        "effect": effects,
        **{f"delay_days_{name}": {f"{size:g}": value for size, value in zip(*waited[name], strict=True)} for name in CHARTS},
        "creeping_days_half": {name: float(np.quantile(found, 0.5, method="higher")) + 1 for name, found in creeping.items()},
        "seen_at_the_end": ends,
        "days_to_alarm": silence,
    }
)
assert real > promised
assert ends["with the fault, model of spring"] < ends["with the fault, renewed monthly"]
assert abs(effects["flow meter loses 3 %"] + 0.03) < 0.005
assert all(late >= soon for _, found in waited.values() for late, soon in pairwise(found))
del minutes, daylight, site, frame, base
print("All checks passed; the memory is free again.")
