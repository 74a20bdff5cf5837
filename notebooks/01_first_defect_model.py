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
# # 01 · Your first defect model
#
# | | to expect |
# | --- | --- |
# | time on two CPU cores | about 10 minutes |
# | time on a GPU | not measured yet |
# | memory | 3.5 GB |
# | network | none |
#
# **Aim.** We tell good surfaces from defective ones and see where the defect is: first in a minute with a network that somebody
# else trained, then with one that we fine-tune. We judge both as a production line would: how many defects do they catch at a
# false-alarm rate that we can live with, and how sure can we be of that figure?
#
# **Data and licences.** The default data set, `textures`, is free to use for anything (CC0): real photographs of brick, grass
# and gravel, half of the images with a defect drawn in. If your admin has installed them, you can also choose `elpv`, real
# solar cells under electroluminescence. Those are licensed CC BY-NC-SA 4.0: **no commercial use**, which is why somebody has to
# opt in: `gpulab data get elpv --accept-licence CC-BY-NC-SA-4.0`. The readings below are about `textures`. The weights we start
# from, EfficientNet-Lite0, come with the lab (Apache-2.0).

# %%
import os

from defectlab import backbone, data, features, figures, lab, metrics, monitor, pixels, plots, store, textures, train, widgets
from defectlab.model import DefectNet, FourSides, LiteDefectNet, parameters

DATA = "textures"  # or "elpv": no commercial use
SMOKE = os.environ.get("GPULAB_SMOKE") == "1"  # a short trial run: a third of the images, few epochs
SEED = 1  # of the split, the order and the first weights

DEVICE = lab.device()
print(lab.look())
print("computing on", DEVICE)

# %% [markdown]
# ## Prepare the data
#
# We need three parts: one to learn from, one to choose by (*validation*), and one to be judged by, once (*test*). Splitting at
# random would be a mistake: these images are pieces of three photographs, and two pieces that overlap are nearly the same
# image. So each photograph was cut into 16 tiles first, and **a tile goes to one part as a whole**. No pixel of the test images
# was ever seen in training.

# %%
images = data.load(lab.data_folder() / DATA, size=96)
if SMOKE:
    images = images.take(range(0, len(images), 3))
parts = data.split(images, seed=SEED)
print(f"{images.title}, licence {images.licence}")
for name, part in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
    print(f"{name:11}{part}")

# %%
plots.gallery(parts.train, seed=SEED)

# %% [markdown]
# **Reading.** One training image of each kind, its defect outlined by its mask. Some defects jump out, such as a dark stain on
# brick. Others hide: a scratch among blades of grass looks like one more blade, and a smear only wipes the texture away. The
# small dots are dust, which good parts have too.
#
# ## Would a simple rule do?
#
# An AUROC of 0.5 is guessing and 1.0 is perfect; we give each rule the benefit of the better direction. Whoever skips this step
# may end up with a network that measures brightness.

# %%
from scipy import ndimage

pictures = parts.train.images.astype(float)
rules = {
    "a constant": [0.0] * len(pictures),
    "mean brightness": pictures.mean(axis=(1, 2)),
    "contrast (standard deviation)": pictures.std(axis=(1, 2)),
    "brightest minus darkest pixel": pictures.max(axis=(1, 2)) - pictures.min(axis=(1, 2)),
    "sharpness (energy of the Laplacian)": [ndimage.laplace(picture).var() for picture in pictures],
}
rule_areas = {name: metrics.auroc(parts.train.labels, values) for name, values in rules.items()}
rule_areas = {name: max(area, 1 - area) for name, area in rule_areas.items()}
for name, area in rule_areas.items():
    print(f"{name:37}AUROC {area:.3f}")

# %% [markdown]
# No rule comes near what a line needs, so there is something to learn.
#
# ## First try: a network that others trained
#
# EfficientNet-Lite0 learnt to tell a thousand kinds of things on photographs. It never saw brick with a scratch, but on the way
# it learnt what edges, spots and textures are. We leave it **frozen**: each image goes through it once and becomes a row of
# numbers. On these rows we fit a logistic regression, a weighted sum. Its one knob, the regularisation, is chosen by
# cross-validation *within the training tiles*. This takes a minute and is hard to get wrong; do it first on any new data set.

# %%
recipe = features.Recipe(size=96)
rows = {
    name: features.extract(part, recipe, DEVICE, cache=lab.cache_folder())
    for name, part in (("train", parts.train), ("validation", parts.validation), ("test", parts.test))
}
linear = features.fit(rows["train"], parts.train)
print("cross-validated AUROC by strength:", {strength: round(area, 3) for strength, area in linear.tried.items()})
frozen = linear.scores(rows["validation"])
print(f"frozen features, validation: AUROC {metrics.auroc(parts.validation.labels, frozen):.3f}")

# %% [markdown]
# **Reading.** Far better than any rule, and far from good enough. The features describe the image *as a whole*: a scratch of
# two pixels' width has to move an average. What we want is a network that looks place by place, and that has seen defects.
#
# ## Second try: fine-tune
#
# `LiteDefectNet` keeps the first five stages of the same network and adds a head that gives every place a score, in steps of
# eight pixels: the *map*. The image's score is the mean of its three worst places, because a part is as bad as its worst spot.
# All weights learn now, those from ImageNet more slowly. Where masks are known, they teach the map directly.
#
# Before that, one more idea. Our defects are drawn, so **more images cost nothing**: we draw four times as many again on
# the training tiles, with other seeds, and more on the validation tiles, so that there is something to choose by. With real
# parts you cannot do this; there, ask the line for more.

# %%
DRAWN = 240 if DATA == "textures" and not SMOKE else 0  # more images of every tile
learn, choose = parts.train, parts.validation
if DRAWN:
    learn = data.join(learn, textures.more(learn, per_tile=DRAWN, seed=SEED + 1))
    choose = data.join(choose, textures.more(choose, per_tile=DRAWN, seed=SEED + 3))
train.seed_everything(SEED)
network = LiteDefectNet() if backbone.available() else DefectNet()
settings = train.Settings(epochs=2 if SMOKE else 4, rate=3e-3, seed=SEED)
print(f"learning from {learn}; {parameters(network):,} numbers to learn")

# %% [markdown]
# Training goes on in a thread of this notebook's kernel. The bar below shows how far it is and when it will be done; you may
# reload the browser meanwhile, and run this cell again if the bar is not there any more. After every epoch a checkpoint is
# kept: should the lab be stopped, run the notebook again, and training goes on where it was.

# %%
checkpoint = lab.cache_folder() / f"01-{DATA}{'-smoke' if SMOKE else ''}.checkpoint"
training = monitor.start(train.fit, network, learn, choose, settings, DEVICE, progress=False, checkpoint=checkpoint)
widgets.TrainingMonitor(training)

# %% [markdown]
# The next cell waits for the end; by `await`, so that the bar and its button go on answering.

# %%
history = await training.finished()
print(f"{len(history.train_loss)} epochs in {history.seconds:.0f} s")
plots.learning_curve(history)

# %% [markdown]
# **Reading.** In the first epoch the blue line is high, for the network's statistics still follow its weights. From the third
# on it lies above the grey one: the training tiles get known, the validation tiles are strangers. In the last epoch it hardly
# falls any more, so a longer training would learn the training tiles by heart. This, too, is a choice by validation images.
#
# ## Choose on validation images
#
# Two things are left to choose, and both are chosen here. How to look: surfaces have no upper side, so the network can look at
# each image from four sides, and we take the mean; is that worth four times the work? And the threshold, which turns scores
# into alarms: the lowest one with at most 1 % false alarms on these images.

# %%
around = FourSides(network)
alone, _ = train.scores(network, choose, DEVICE)
validation_scores, _ = train.scores(around, choose, DEVICE, progress=True)
for way, values in (("one side", alone), ("four sides", validation_scores)):
    recall, area = metrics.recall_at(choose.labels, values, 0.01), metrics.auroc(choose.labels, values)
    print(f"validation, {way:11}AUROC {area:.4f}, recall at 1 % false alarms {recall:.4f}")
threshold = metrics.threshold_for(choose.labels, validation_scores, 0.01)

# %% [markdown]
# **Reading.** From four sides, the recall on validation images is 99.8 %, from one 99.6 %. We take four; had they been no
# better here, one would do.
#
# ## Judge, once
#
# Only now do we look at the test images. Lines ask for a recall of "99.5 % at 1 % false alarms". The data set has a few
# hundred defects among the test images, of which a single one is more than a quarter of a percent: they could not tell. So we
# draw more here, too, on the test tiles.
#
# (An earlier form of this notebook was tuned while looking at the test tiles of another split, `SEED = 0`. That spoils a test.
# So this one splits anew, and its recipe was chosen on the validation tiles of the new split. The full test was scored once,
# after a short trial run that showed a few of its images. Tiles of the old test may be among the new ones, so take the
# figures as a little flattering, and judge on parts of your own.)

# %%
judge = parts.test
if DRAWN:
    judge = data.join(judge, textures.more(judge, per_tile=DRAWN, seed=SEED + 2))
test_scores, test_maps = train.scores(around, judge, DEVICE, progress=True)
counts = metrics.confusion(judge.labels, test_scores, threshold)
plots.confusion_matrix(counts, threshold)

# %% [markdown]
# **Reading.** Each row is what the parts are, each column what the model says. In the run whose figures are kept with this
# lab's sources, 1793 of 1800 defects were caught, 99.6 %, but at 103 false alarms among 1800 good parts: 5.7 % in the place of
# the 1 % that we asked for. The threshold comes from six validation tiles, and the twelve test tiles have things that those do
# not. A threshold is a promise only about parts like those that it was chosen on; at a real line, choose it on good parts of
# many days.

# %%
rates = (0.005, 0.01, 0.05)
chosen = [metrics.threshold_for(choose.labels, validation_scores, rate) for rate in rates]
points = [metrics.operating_point(judge.labels, test_scores, *pair) for pair in zip(rates, chosen, strict=True)]
print(*points, sep="\n")
plots.recall_against_false_alarms(judge.labels, test_scores, points)

# %% [markdown]
# **Reading.** The blue line knows every threshold with hindsight; published "recall at 1 % false alarms" is read off such a
# line. The orange points are what a production line would have got, since their thresholds were chosen beforehand.
#
# How far may the truth be from these figures? We draw the test images again and again with repetition, once image by image and
# once **tile by tile**: images of one tile resemble each other and do not count as so many independent ones.

# %%
tiles = [record.group for record in judge.records]
asked = {
    "AUROC": metrics.auroc,
    "average precision": metrics.average_precision,
    "recall at 1 % false alarms": lambda labels, scores: metrics.recall_at(labels, scores, 0.01),
    "recall at our threshold": lambda labels, scores: metrics.confusion(labels, scores, threshold).recall,
}
found = {}
for name, figure in asked.items():
    by_image = metrics.bootstrap(figure, judge.labels, test_scores, draws=200)
    found[name] = metrics.bootstrap(figure, judge.labels, test_scores, groups=tiles, draws=200)
    spans = [f"by {what} {one.low:.4f} to {one.high:.4f}" for what, one in (("image", by_image), ("tile", found[name]))]
    print(f"{name:28}{found[name].value:.4f}   {'   '.join(spans)}")
frozen_area = metrics.auroc(parts.test.labels, linear.scores(rows["test"]))
print(f"{'frozen features, AUROC':28}{frozen_area:.4f}")
if judge.masks is not None:
    print(f"{'PRO of the maps':28}{pixels.pro(judge.masks, pixels.resized(test_maps, judge.masks.shape[1:])):.4f}")

# %% [markdown]
# **Reading.** We set out for an AUROC of at least "0.99", and for a recall of "99.5 % at 1 % false alarms". The AUROC is 0.999
# (0.998 to 1.000 by tile); frozen features had 0.949. The recall is **missed**: it is 99.1 % at 1 % false alarms even with
# hindsight, by tile from 98.7 % to 99.8 %. The goal lies within that interval, so these images neither reach nor rule it out.
# We leave it at that: to change the recipe now and to judge it by the same images again would be to tune on the test.
#
# Which kind of defect is it that gets away?

# %%
kinds = [record.kind for record in judge.records]
plots.recall_bars(metrics.recall_by(kinds, judge.labels, test_scores, threshold), "Recall by kind of defect, test images")

# %% [markdown]
# **Reading.** The lines are intervals. Where they overlap, do not rank: with so few misses, one more or less is chance.
#
# ## Look at what it saw
#
# The map shows where the network suspects a defect. Here are the defects that it missed by most, its worst false alarms, and
# its surest catches, with the true outline.

# %%
import numpy as np

order, bad = np.argsort(test_scores), judge.labels
looks = {
    "missed": [int(i) for i in order if bad[i] and test_scores[i] < threshold],
    "false alarm": [int(i) for i in order[::-1] if not bad[i] and test_scores[i] >= threshold],
    "caught": [int(i) for i in order[::-1] if bad[i] and test_scores[i] >= threshold],
}
shown = [(i, f"{verdict}\n{kinds[i]}") for verdict, found in looks.items() for i in found[:3]]
plots.what_it_saw(judge, test_maps, test_scores, *zip(*shown, strict=True))

# %% [markdown]
# **Reading.** Look at the missed ones first. Mostly they run along something that the surface has by itself, a joint between
# bricks or a dark blade of grass, and a person would have to look twice, too. False alarms sit on real structure that is rare
# here: there, more good images of such places help, and not more defects.
#
# Look further by yourself: choose what to show, then go from image to image with the arrow keys.

# %%
widgets.MaskViewer(judge, test_scores, test_maps, looks)

# %% [markdown]
# And try other thresholds, on the *validation* images: whoever chooses by test images has none left to be judged by. Move the
# slider by the arrow keys and watch which images change sides.

# %%
widgets.ThresholdSlider(choose, validation_scores, threshold)

# %% [markdown]
# ## Keep the model
#
# `/workspace/models` outlives this lab. Beside the weights lies a card that says what the model was trained on and how good it
# is; without that, in half a year nobody knows. Notebook 06 makes of it what a line can run.

# %%
import dataclasses

name = store.file_name(lab.user(), f"first-defect-model-{DATA}{'-smoke' if SMOKE else ''}")
area = found["AUROC"].value
card = {
    "data": {"name": images.name, "digest": learn.digest, "base_digest": images.digest, "licence": images.licence,
             "attribution": images.attribution},
    "sides": 4,
    "input": {"size": images.images.shape[1], "channels": 1, "range": [0, 1]},
    "threshold": threshold,
    "metrics": {
        "test_images": len(judge),
        "auroc": area,
        "frozen_auroc": frozen_area,
        "recall_at_1_percent": found["recall at 1 % false alarms"].value,
        "at_false_alarm_rate": [{"asked": point.asked, **dataclasses.asdict(point.counts)} for point in points],
    },
    "seed": SEED,
    "seconds": history.seconds,
}  # fmt: skip
saved = store.save(network, lab.models_folder(), name, card)
print(f"wrote {saved} and {saved.with_suffix('.json').name}")

# %% [markdown]
# ## What we learnt
#
# - Split by where images come from, never at random: pieces that overlap make a model look better than it is.
# - Try simple rules and frozen features first: they take a minute and say how hard the task is.
# - Fine-tuning from ImageNet plus masks plus more images made the difference; each can be tried alone.
# - Choose everything on validation images, the threshold too; touch the test images once, and report what came out.
# - A threshold from few tiles keeps its false-alarm rate on those tiles only. Many different good parts are worth more than many
#   pictures of the same.
# - Say counts and intervals, not just rates: a few hundred defects cannot prove "99.5 %", whatever the figure says.
# - Look at the mistakes: they say more about what to do next than another percentage does.
#
# **Go on.** A harder data set is one cell away; put its folder into `data.load` above. Which kind of defect suffers most?
#
#     !python -m defectlab data textures --difficulty hard --name hard --out ~/data
#     images = data.load("/home/engineer/data/hard")
#
# Everything that this notebook calls is in the library `defectlab`. `train??` shows its source; it is meant to be copied from.
#
# The last cell checks what we did and frees the memory.

# %%
import gc

import torch

again, _ = store.load(saved)
check, _ = train.scores(FourSides(again), judge, DEVICE)
assert np.allclose(check, test_scores, atol=1e-3), "the file holds another model than the one we judged"
assert history.train_loss[-1] < 0.9 * history.train_loss[0], "the network learnt nothing"
assert area > (0.99 if DATA == "textures" and not SMOKE else 0.6), f"the test AUROC {area:.3f} is lower than it should be"
figures.record({
    "seed": SEED, "train_images": len(learn), "validation_images": len(choose), "test_images": len(judge),
    "simple_rules_auroc": rule_areas, "frozen_auroc": frozen_area,
    "validation_recall_at_1_percent": {
        "one side": metrics.recall_at(choose.labels, alone, 0.01),
        "four sides": metrics.recall_at(choose.labels, validation_scores, 0.01),
    },
    "auroc": found["AUROC"], "average_precision": found["average precision"],
    "recall_at_1_percent": found["recall at 1 % false alarms"], "recall": found["recall at our threshold"],
    "caught": counts.caught, "defects": counts.defects, "false_alarms": counts.false_alarms, "good": counts.good,
    "false_alarm_rate": counts.false_alarm_rate, "training_seconds": history.seconds,
})  # fmt: skip
del network, around, again, images, parts, learn, choose, judge, test_maps
gc.collect()
if DEVICE == "cuda":
    torch.cuda.empty_cache()
print("All checks passed; the memory is free again.")
