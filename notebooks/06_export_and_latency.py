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
# # 06 · Out of the lab: export and latency
#
# | | to expect |
# | --- | --- |
# | time on two CPU cores | about 2 minutes |
# | time on a GPU | the same: the line has a CPU |
# | memory | 2.8 GB |
# | network | none |
#
# **Aim.** Make of a trained network a file that a production line can run: check that it says the same, time it as the line
# will see it, try eight-bit numbers and what they cost, and seal it together with what must be known about it. The claim to
# check is "under 200 ms per image".
#
# **Data and licences.** The default data set, `textures` (CC0), and the model that notebook 01 left in `/workspace/models`.
# Where there is none, a short training makes one that is good enough for timing.

# %%
import os
import platform
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from defectlab import backbone, data, export, figures, lab, latency, manifest, metrics, plots, quantize, store, textures, train
from defectlab.model import DefectNet, FourSides, LiteDefectNet

SMOKE = os.environ.get("GPULAB_SMOKE") == "1"  # a short trial run: fewer images, fewer calls
CALLS = 100 if SMOKE else 1000
lab.device()
OUT = Path(tempfile.mkdtemp(prefix="export-"))
print(f"{platform.machine()}, {lab.look().cpus:g} CPUs, PyTorch {torch.__version__}")

# %%
images = data.load(lab.data_folder() / "textures", size=96)
saved = lab.models_folder() / f"{store.file_name(lab.user(), 'first-defect-model-textures')}.pt"
network, card = store.load(saved) if saved.exists() else (None, {"seed": 0, "data": {"name": images.name}})
# Split as for that model: what it learnt from must not come back among the test images.
seed = int(card["seed"])
parts = data.split(images.take(range(0, len(images), 4)) if SMOKE else images, seed=seed)
choose, judge = parts.validation, parts.test
if not SMOKE:
    choose = data.join(choose, textures.more(choose, per_tile=120, seed=seed + 3))
    judge = data.join(judge, textures.more(judge, per_tile=120, seed=seed + 2))
origin = saved.name if network else "a short training"
if network is None:
    train.seed_everything(seed)
    network = LiteDefectNet() if backbone.available() else DefectNet()
    train.fit(network, parts.train, parts.validation, train.Settings(epochs=1 if SMOKE else 2, rate=3e-3))
    card["data"] |= {"digest": images.digest, "licence": images.licence}


def scores_of(run: export.Run, part: data.DataSet) -> np.ndarray:
    """Scores of many images, some at a time."""
    return np.concatenate([run(some)[0] for some in np.array_split(part.images, 1 + len(part) // 64)])


reference = export.of_network(network)
threshold = metrics.threshold_for(choose.labels, scores_of(reference, choose), 0.01)
# A model is calibrated and judged here from one side; notebook 01 looked from four.
print(f"the network is from {origin}; alarm from {threshold:.3f} on")

# %% [markdown]
# ## Three ways out
#
# - **ONNX**, the first choice: a file that onnxruntime runs, without PyTorch, in many languages and on many devices.
# - **torch.export**, the second: PyTorch's own graph. AOTInductor compiles it for one kind of machine, which needs a C++
#   compiler and half a minute.
# - **TorchScript**, legacy: it works, and lines that run libtorch use it, but PyTorch has deprecated it (`2.11`).
#
# Whichever it is, scaling of grey levels goes into the file, so that the line cannot get it wrong; the number of images per
# call stays free; and **no file is trusted before it was compared** with the network on real images, one by one and in batches.

# %%
SIZE = images.images.shape[1:]
files = {
    "ONNX": export.to_onnx(network, OUT / "model.onnx", SIZE),
    "torch.export": export.to_exported(network, OUT / "model.pt2", SIZE),
    "TorchScript (legacy)": export.to_torchscript(network, OUT / "model.ts", SIZE),
}
if SMOKE or not shutil.which("g++"):
    print("AOTInductor is left out:", "this is a trial run" if SMOKE else "there is no C++ compiler g++ here")
else:
    files["AOTInductor"] = export.to_compiled(network, OUT / "compiled.pt2", SIZE)
OPENERS = {"ONNX": export.open_onnx, "AOTInductor": export.open_compiled}
runs = {"PyTorch, as trained": reference}
some = parts.test.images[:64]
for name, path in files.items():
    runs[name] = OPENERS.get(name, export.open_torch)(path)
    found = export.compare(runs[name], reference, some, threshold=threshold)
    differ = f"scores differ by {found.scores:.1e}, maps by {found.maps:.1e}, {found.flips} flips"
    print(f"{name:22}{path.stat().st_size / 1e6:6.1f} MB   {differ}")

# %% [markdown]
# **Reading.** Differences of a millionth are the order in which numbers are added. *Flips* counts images that change sides of
# the threshold; that is what a line would notice, and it must be 0.
#
# ## Eight bits
#
# In int8 a multiplication costs a quarter and less. Each layer needs to know the range of its numbers; we *calibrate* it on
# some hundred training images, good ones and defective ones. The result is another model with other scores, so it gets its own
# threshold, and is judged anew. The images to choose and to judge by are as in notebook 01, drawn on its validation and its
# test tiles: what eight bits cost is little, and takes many images to see.

# %%
rng = np.random.default_rng(0)
calibration = parts.train.images[rng.choice(len(parts.train), min(256, len(parts.train)), replace=False)]
files["ONNX int8"] = quantize.to_int8(files["ONNX"], OUT / "model-int8.onnx", calibration)
runs["ONNX int8"] = export.open_onnx(files["ONNX int8"])
judged, at_threshold = {}, {}
for name in ("ONNX", "ONNX int8"):
    own = metrics.threshold_for(choose.labels, scores_of(runs[name], choose), 0.01)
    scores = scores_of(runs[name], judge)
    judged[name] = metrics.auroc(judge.labels, scores)
    point = at_threshold[name] = metrics.operating_point(judge.labels, scores, 0.01, own)
    print(f"{name:10}{files[name].stat().st_size / 1e6:5.1f} MB, AUROC {judged[name]:.4f}; {point}")

# %% [markdown]
# **Reading.** A third of the size. In the run whose figures are kept with this lab's sources, the AUROC went from 0.9983 to
# 0.9978. Each at its own threshold, fp32 caught 1071 of 1080 defects at 42 false alarms, int8 1063 at 34: the two thresholds do
# not mean quite the same, and the intervals overlap. That the false alarms are more than the 1 % asked for is the lesson of
# notebook 01 about thresholds from few tiles.
#
# ## How long does one image take?
#
# A line waits for the slowest part, so the figure is the **99th percentile** of many single calls, on one thread, from the
# compressed picture to the verdict. An average would hide what matters, and a batch is not what a line has.


# %%
def whole_way(run: export.Run, images: np.ndarray, size: tuple[int, int]):
    """One picture after the other, from PNG to score."""
    pictures, turn = [latency.encode(image) for image in images], iter(range(10**9))
    return lambda: run(latency.decode(pictures[next(turn) % len(pictures)], size))


torch.set_num_threads(1)
times = {name: latency.measure(name, whole_way(run, parts.test.images[:32], SIZE), CALLS) for name, run in runs.items()}
print(*times.values(), sep="\n")

# %%
plots.bars(
    {name: found.p99 for name, found in times.items()},
    title=f"One image of {SIZE[1]} × {SIZE[0]}, one thread, PNG decoding included",
    label="milliseconds at the 99th percentile (lower is better)",
)

# %% [markdown]
# **Reading.** Half of the calls took at most 3.9 ms in PyTorch, 2.2 ms compiled by AOTInductor and 0.7 ms in ONNX Runtime. Most
# of PyTorch's time for one small image goes into calling one operation after the other, which ONNX Runtime does without.
# `torch.export` as it is gains nothing, for nothing was compiled. The 99th percentiles are further apart, as others used this
# machine, too: a figure that a line may rely on is measured on the line.
#
# ## Larger images, more threads, four sides
#
# The same network at 224 × 224 pixels; with all CPUs of this lab; and looking from four sides, as notebook 01 did. Here the
# camera gives 300 × 300 pixels, so each call is what a line does for a part: decode the PNG, resize it, judge it once.

# %%
LARGE, threads = (224, 224), max(1, int(lab.look().cpus))
camera = np.tile(parts.test.images[:32], (1, 4, 4))[:, :300, :300]
large = export.to_onnx(network, OUT / "large.onnx", LARGE)
eight_bits = quantize.to_int8(large, OUT / "large-int8.onnx", np.tile(calibration[:64], (1, 3, 3))[:, :224, :224])
around = export.to_onnx(FourSides(network), OUT / "around.onnx", LARGE)
ways = {
    "224 px, one thread": export.open_onnx(large),
    f"224 px, {threads} threads": export.open_onnx(large, threads),
    "224 px, int8, one thread": export.open_onnx(eight_bits),
    "224 px, four sides, one thread": export.open_onnx(around),
}
large_times = {name: latency.measure(name, whole_way(run, camera, LARGE), CALLS) for name, run in ways.items()}
picture = latency.encode(camera[0])
decoding = latency.measure("decoding and resizing alone", lambda: latency.decode(picture, LARGE), CALLS)
print(*large_times.values(), decoding, sep="\n")

# %%
plots.bars(
    {name: found.p99 for name, found in large_times.items()},
    title="Decode a PNG of 300 × 300, resize to 224 × 224, judge",
    label="milliseconds at the 99th percentile (lower is better)",
    mark=15.0,
    mark_label="15 ms: what we set out for",
)

# %% [markdown]
# **Reading.** On one thread in fp32 the whole way takes 3.9 ms for half of the parts and 8.1 ms at the 99th percentile; int8
# 3.1 ms and 7.3 ms. Both are below the 15 ms that we set out for. Four sides are not: 31 ms. A second thread helps one image
# little and takes a core from the next camera. The claim of 200 ms was easy for networks of this size, which says nothing about
# larger ones.
#
# ## Seal it
#
# The file alone says nothing: not what it was trained on, nor where its threshold lies, nor what it wants to be fed. The
# *manifest* does, and its seal (an HMAC over all of it, checksums of the files included) shows whether anything was changed
# since. Model and manifest go to the folder for models, where they outlive this lab. The key stays in your home: bring it to the
# line by another way than the model, and keep it where the line can read it and nobody can change it.

# %%
key_file = Path.home() / ".config" / "defectlab" / "line.key"
key = manifest.key_from(key_file)
best = lab.models_folder() / f"{store.file_name(lab.user(), 'defects-at-the-line')}{'-smoke' if SMOKE else ''}.onnx"
shutil.copy(files["ONNX"], best)
judge_scores = runs["ONNX"](parts.test.images)[0]
point = at_threshold["ONNX"]
about = manifest.About(
    name=f"{lab.user()}-defects",
    data=card["data"],
    contract=manifest.InputContract(height=images.images.shape[1], width=images.images.shape[2]),
    threshold=point.threshold,
    metrics={
        "test_images": len(judge),
        "auroc": judged["ONNX"],
        "caught": point.counts.caught,
        "defects": point.counts.defects,
        "false_alarms": point.counts.false_alarms,
        "good": point.counts.good,
        "p99_ms": times["ONNX"].p99,
    },
    revision=manifest.revision(),
    more={"from": origin},
)
slip = manifest.write(best, about, key)
print(slip.read_text())

# %% [markdown]
# ## At the line
#
# `scripts/line.py` is all that the line needs, beside onnxruntime, numpy and pillow. It refuses a model without a valid seal.
# We let it judge four pictures, then change the threshold in the manifest, as somebody in a hurry might, and try again.

# %%
import json
import subprocess
import sys

from defectlab import launch

chosen = [int(i) for i in (*np.flatnonzero(parts.test.labels)[:2], *np.flatnonzero(~parts.test.labels)[:2])]
names = []
for i in chosen:
    names.append(str(OUT / f"{parts.test.records[i].kind}-{i}.png"))
    Path(names[-1]).write_bytes(latency.encode(parts.test.images[i]))


def line() -> subprocess.CompletedProcess:
    """Run the line's program."""
    command = [sys.executable, str(launch.SCRIPTS / "line.py"), str(best), str(key_file), *names]
    return subprocess.run(command, capture_output=True, text=True, check=False)


verdicts = line()
print(verdicts.stdout)
honest = slip.read_text()
slip.write_text(json.dumps({**json.loads(honest), "threshold": 0.999}))
tampered = line()
print("after the threshold was changed:", tampered.stderr.strip())
slip.write_text(honest)

# %% [markdown]
# ## What we learnt
#
# - ONNX first. Compare every exported file with the network before anybody relies on it, and look for flips.
# - Time single images at the 99th percentile, decoding included, on as many threads as the line will have.
# - int8 is another model: its own threshold, its own figures. Take it when you need the time, and not because it is there.
# - A model without its threshold, its input and its figures is half a model; a seal keeps the halves together.

# %%
said = [json.loads(text) for text in verdicts.stdout.splitlines()]
assert all(abs(verdict["score"] - float(judge_scores[i])) < 1e-4 for verdict, i in zip(said, chosen, strict=True))
assert tampered.returncode == 2, "the line took a manifest that was changed"
assert "was changed" in tampered.stderr
assert manifest.verify(best, key)["threshold"] == point.threshold
assert judged["ONNX int8"] > judged["ONNX"] - 0.03, "int8 costs too much here"
assert max(found.p99 for found in (*times.values(), *large_times.values())) < 200, "slower than the claim of 200 ms"
figures.record({
    "seed": seed, "test_images": len(judge), "auroc": judged,
    "caught": {name: one.counts.caught for name, one in at_threshold.items()},
    "defects": point.counts.defects,
    "false_alarms": {name: one.counts.false_alarms for name, one in at_threshold.items()},
    "good": point.counts.good,
    "bytes": {name: path.stat().st_size for name, path in files.items()},
    "p50_ms": {name: one.p50 for name, one in (times | large_times).items()},
    "p99_ms": {name: one.p99 for name, one in (times | large_times).items()},
    "decoding_p99_ms": decoding.p99,
})  # fmt: skip
shutil.rmtree(OUT)
print(f"Yours to take to the line: {best.name} and {slip.name} in {best.parent}; the key is {key_file}.")
print("All checks passed.")
