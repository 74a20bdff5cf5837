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
# # 02 · A real benchmark: solar cells
#
# | | to expect |
# | --- | --- |
# | time on two CPU cores | about 8 minutes, of which 7 for features, the first time only |
# | time on a GPU | not measured yet |
# | memory | 1.7 GB |
# | network | none |
#
# **Aim.** On real images, with labels that experts were not always sure of, we see what a GPU-less engineer reaches in minutes,
# put it beside what was published, and then ask two questions that decide whether such a figure means anything on a line: *how
# were the images split*, and *what does the last defect cost*?
#
# **Data and licence.** ELPV: images of solar cells under electroluminescence, each with the probability that an expert gave for
# a defect. The licence is CC BY-NC-SA 4.0: **no commercial use**. Your admin has to opt in:
# `gpulab data get elpv --accept-licence CC-BY-NC-SA-4.0`. Do not ship a model that was trained on them.

# %%
import os
import time

import numpy as np
from defectlab import committee, data, features, figures, folds, lab, metrics, plots

SMOKE = os.environ.get("GPULAB_SMOKE") == "1"  # a short trial run: every eighth image, in small
SEED, DRAWS = 0, 50 if SMOKE else 300
DEVICE = lab.device()

images = data.load(lab.data_folder() / "elpv")
if SMOKE:
    images = images.take(range(0, len(images), 8))
labels = images.labels
kinds = [record.kind for record in images.records]
cell = [record.source for record in images.records]
print(f"{images.title}, licence {images.licence}\n{images}\n{images.kinds}")
plots.gallery(images, seed=SEED)

# %% [markdown]
# **Reading.** Two types of cell: *mono* is even, *poly* has the grain of its crystals, which looks much like damage. Dark places
# give no current. The experts said "likely" where they were not sure. As the publications do, we count a cell as defective from
# "likely defective" on; the unsure labels will count a third of the sure ones when we train, and fully when we judge.
#
# ## Features, from three sides and at two sizes
#
# Each image goes through EfficientNet-Lite0, which learnt on photographs and stays as it is (notebook 01 explains it). A cell
# has no left and no upper side, so we take each image as it is, mirrored, and upside down: three times the training images. Two
# sizes see different things: the small one the cell as a whole, the large one its cracks. The features are kept in your home,
# so only the first run takes this time.

# %%
began = time.monotonic()
recipes = [features.Recipe(size=224, stages=(4, 5, 6)), features.Recipe(size=300, stages=(3, 4, 5))]
if SMOKE:
    recipes = [features.Recipe(size=64, stages=(3,)), features.Recipe(size=96, stages=(4,))]
views = [features.from_sides(images, recipe, DEVICE, cache=lab.cache_folder()) for recipe in recipes]
feature_seconds = time.monotonic() - began
print(f"{[view.shape for view in views]} in {feature_seconds:.0f} s")

# %% [markdown]
# ## The recipe
#
# A committee of two support vector machines, one per size. Before each, the features are brought to the same scale, and cut to
# their 200 main directions. How many directions, which stages and how strict a machine were chosen by cross-validation **inside
# the training images of the first round below**; so that round's test images had no part in any choice. Five rounds, and every
# cell is judged once by a committee that did not see it.

# %%
weights = np.array([1.0 if kind in ("functional", "defective") else 1 / 3 for kind in kinds])


def judge(inside, outside):
    fitted = committee.fit([view[:, inside] for view in views], labels[inside], weights[inside])
    return fitted.scores([view[:, outside] for view in views])


began = time.monotonic()
at_random = folds.stratified(list(zip(kinds, cell, strict=True)), seed=SEED)
random_scores = folds.held_out(at_random, judge)
groups = [record.group for record in images.records]
area = metrics.bootstrap(metrics.auroc, labels, random_scores, draws=DRAWS)
first = metrics.auroc(labels[at_random == 0], random_scores[at_random == 0])
fit_seconds = time.monotonic() - began
print(f"AUROC {area}; in the first round alone {first:.1%}; five committees in {fit_seconds:.0f} s")

# %% [markdown]
# **Reading.** The AUROC is 0.943, and 0.946 in the first round, by whose test images nothing was chosen. The interval reaches
# from 0.933 to 0.952: so these images do not prove that it is above 0.94.
#
# ## Beside what was published
#
# Deitsch and others (2019) judged by accuracy, on one random split: their support vector machine and their fine-tuned network
# reached what the last two bars say. Our bar is what the committee says on its own, at its own threshold of 0. **This is no
# ranking**: their split is another one, and they trained and judged by other rules. It says that we are in the same region.

# %%
PUBLISHED = {"published: SVM": 0.8244, "published: CNN": 0.8842}
counts = metrics.confusion(labels, random_scores, 0.0)
accuracy = metrics.bootstrap(lambda bad, scores: float(np.mean((scores >= 0) == bad)), labels, random_scores, draws=DRAWS)
print(f"accuracy {accuracy}: recall {counts.recall:.1%} at {counts.false_alarm_rate:.1%} false alarms")
bars = {"always 'good'": 1 - labels.mean(), "ours": accuracy.value, **PUBLISHED}
plots.bars(bars, "Accuracy, each by its own split", "accuracy")

# %% [markdown]
# **Reading.** Ours is 88.2 %, near the published network. But the first bar finds nothing at all and still has 69 %, and behind
# our figure are 71 % of the defects caught at 4.2 % false alarms, which sounds less grand. So we go on with recall and false
# alarms. First a doubt.
#
# ## Are these images independent?
#
# The files are in the order in which modules were cut into cells, though nobody says where one module ends. So: does a cell's
# nearest neighbour *by features* also lie near it *in the list*? If images were independent, it would lie anywhere.

# %%
twin = folds.nearest(views[0][0])
place = np.arange(len(labels))
gap = np.abs(twin - place)
span = 60 if not SMOKE else 8
reach = np.unique(np.geomspace(1, len(labels) - 1, 40).astype(int))
found = [float(np.mean(gap <= k)) for k in reach]
chance = [float(np.mean((np.minimum(place, k) + np.minimum(place[::-1], k)) / (len(labels) - 1))) for k in reach]
near, near_by_chance = float(np.mean(gap <= span)), float(np.interp(span, reach, chance))
print(f"nearest neighbour within {span} places: {near:.0%} of the cells; by chance {near_by_chance:.1%}")
plots.lines({"found": (reach, found), "if order meant nothing": (reach, chance)},
            "How far the most similar cell lies away", "places in the list", "share of cells")  # fmt: skip

# %% [markdown]
# **Reading.** The blue line jumps up at once. For 89 % of the cells the most similar one lies within 60 places; if order meant
# nothing it would be 4.5 %. It mostly comes from the same module, with the same camera, brightness and crystal, and in a random
# split it mostly lies in the training images. Then part of what looks like skill is *recognition*. On your line tomorrow's
# module is not among the training images.
#
# ## Split by blocks
#
# So we cut the list into five runs of neighbours and leave out one at a time. Nothing else changes.

# %%
by_block = folds.blocks(groups)
block_scores = folds.held_out(by_block, judge)
block_area = metrics.bootstrap(metrics.auroc, labels, block_scores, groups=groups, draws=DRAWS)
print(f"AUROC at random {area}\nAUROC by blocks {block_area}")
mono, runs = np.array(cell) == "mono", {}
for part in range(5):
    here = by_block == part
    runs[str(part + 1)] = metrics.auroc(labels[here], block_scores[here])
    print(f"run {part + 1}: {here.sum()} cells, {mono[here].mean():4.0%} mono, {labels[here].mean():4.0%} defective, "
          f"AUROC {runs[str(part + 1)]:.3f}")  # fmt: skip
shares_of_defects = {str(part + 1): labels[by_block == part].mean() for part in range(5)}
shares = np.linspace(0, 1, 51)
curves = {name: (shares, [metrics.recall_at(labels, scores, share) for share in shares])
          for name, scores in (("at random", random_scores), ("by blocks", block_scores))}  # fmt: skip
plots.lines(curves, "Recall against false alarms, by split", "false-alarm rate", "recall")

# %% [markdown]
# **Reading.** The same recipe, the same images, and 0.867 instead of 0.943, with an interval from 0.80 to 0.92. It is nearer
# to what a new module brings. Two things make it low: the twin next door is not among the training images any more, and the
# runs differ. 64 % of the cells of one run are defective and 9 % of another, so each is judged by a committee that learnt from
# another mixture. A line meets both. One figure for all hides that the AUROC is 0.93 in the best run and 0.73 in the worst.
#
# ## Recall at a false-alarm rate that one can live with
#
# The intervals come from drawing the cells again: singly for the random split, in runs of sixty for the blocks, since neighbours
# do not count as independent.

# %%
rates = (0.01, 0.05, 0.1)
recalls = {}
for name, scores, drawn in (("random", random_scores, None), ("blocks", block_scores, groups)):
    for rate in rates:
        figure = lambda bad, numbers, rate=rate: metrics.recall_at(bad, numbers, rate)  # noqa: E731
        recalls[f"{name}_{rate * 100:.0f}_percent"] = metrics.bootstrap(figure, labels, scores, groups=drawn, draws=DRAWS)
for name, estimate in recalls.items():
    print(f"{name:20}{estimate}")
threshold = metrics.threshold_for(labels, random_scores, 0.05)
plots.recall_bars(metrics.recall_by([f"{kind}, {source}" for kind, source in zip(kinds, cell, strict=True)],
                                    labels, random_scores, threshold), "Recall at 5 % false alarms, random split")  # fmt: skip

# %% [markdown]
# **Reading.** At 1 % false alarms the committee catches 57 % of the defects when split at random and 46 % by blocks, where the
# interval reaches from 32 % to 60 %: not a figure to plan a line by. Where the expert was sure, it catches far more than among
# the "likely" ones, and nobody can say how many of those are defects at all. No model can be better than its labels.
#
# ## What the last defect costs
#
# "Catch 99.5 % of the defects" sounds like a small step from 95 %. Read off the false alarms that it takes, with hindsight:

# %%
asked = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
cost = {name: [metrics.false_alarms_for(labels, scores, recall) for recall in asked]
        for name, scores in (("at random", random_scores), ("by blocks", block_scores))}  # fmt: skip
sure = np.array([kind in ("functional", "defective") for kind in kinds])
cost["at random, sure labels only"] = [metrics.false_alarms_for(labels[sure], random_scores[sure], recall) for recall in asked]
for name, values in cost.items():
    print(f"{name:30}" + "  ".join(f"{recall:.1%}: {value:.0%}" for recall, value in zip(asked, values, strict=True)))
prices = {name: (asked, values) for name, values in cost.items()}
plots.lines(prices, "The price of recall", "recall asked for", "false-alarm rate")

# %% [markdown]
# **Reading.** The lines turn upwards at the end. Catching 95 % already costs 29 % of the good cells, and 99.5 % costs 69 %, by
# blocks 88 %: then a person looks at nearly everything and the model saves little. It is not the unsure labels alone: without
# them it is still 58 %. And the point is hardly known, since it hangs on the four or five defects that score lowest.
#
# So do not promise 99.5 % on such images. What would help: better labels, a second look at the unsure ones, images that show
# more, and more modules, rather than another network.

# %% [markdown]
# ## What we learnt
#
# - Frozen features and a committee of support vector machines reach published accuracy within minutes, without a GPU.
# - Neighbours resemble each other. Split by module, or at least by runs, and show both figures.
# - Give recall at a false-alarm rate, with an interval that knows which images belong together.
# - The last half percent of recall may cost more than the model saves; say so before somebody promises it.
#
# **Go on.** Fine-tune as in notebook 01 (`DATA = "elpv"`), and judge by blocks. Or drop the unsure labels: what changes?
#
# The last cell records the figures, checks what we did and frees the memory.

# %%
import gc

assert not np.isnan([random_scores, block_scores]).any(), "a cell was not judged"
assert near > 2 * near_by_chance, "neighbours do not resemble each other; is the order of the files lost?"
assert area.value > (0.6 if SMOKE else 0.94), f"the AUROC {area.value:.3f} is lower than it should be"
figures.record({
    "seed": SEED, "images": len(labels), "defects": int(labels.sum()), "auroc_random": area, "auroc_first_round": first,
    "auroc_blocks": block_area, "accuracy_random": accuracy, "accuracy_of_always_good": 1 - labels.mean(),
    "recall_own_threshold": counts.recall, "false_alarm_rate_own_threshold": counts.false_alarm_rate,
    "auroc_of_run": runs, "defects_of_run": shares_of_defects,
    "nearest_within_60": near, "nearest_within_60_by_chance": near_by_chance, "recall_at": recalls,
    "false_alarms_random": dict(zip(("80", "90", "95", "98", "99", "995"), cost["at random"], strict=True)),
    "false_alarms_blocks": dict(zip(("80", "90", "95", "98", "99", "995"), cost["by blocks"], strict=True)),
    "false_alarms_sure": dict(zip(("80", "90", "95", "98", "99", "995"), cost["at random, sure labels only"], strict=True)),
    "feature_seconds": feature_seconds, "fit_seconds": fit_seconds,
})  # fmt: skip
views.clear()
del images
gc.collect()
print("All checks passed; the memory is free again.")
