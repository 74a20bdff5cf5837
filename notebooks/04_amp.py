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
# # 04 · Faster in fewer bits
#
# | | to expect |
# | --- | --- |
# | time on two CPU cores | about 3 minutes |
# | time on a GPU | not measured yet; a few minutes, most of it compiling |
# | memory | 2 GB; on a GPU as much as the table says |
# | network | none |
#
# **Aim.** Train the same network in fp32, TF32, bf16 and fp16, with *channels last* and with `torch.compile`, and put images
# per second, peak memory and accuracy side by side. Then read from a *roofline* why the figures are what they are. The claim to
# check is "about 40 % faster with half the memory on ResNet-50", which is about GPUs.
#
# **Data and licences.** Random images for the speed of ResNet-50: speed does not depend on what they show. For accuracy,
# `textures` (CC0). ResNet-50 is built here from its paper and starts from nothing; no weights are needed.

# %%
import os

import torch
from defectlab import data, lab, metrics, plots, precision, speed, train
from defectlab.model import DefectNet

SMOKE = os.environ.get("GPULAB_SMOKE") == "1"  # a short trial run: few steps, a small network
COMPILE = torch.cuda.is_available()  # on a CPU compiling takes longer than all the rest
DEVICE = lab.device()
GPU = DEVICE == "cuda"
print(torch.cuda.get_device_name() if GPU else f"CPU, {lab.look().cpus:g} of them", "| PyTorch", torch.__version__)

# %% [markdown]
# ## The spelling
#
# `torch.amp.autocast(device, dtype=…)` around the forward pass and the loss, never around the backward pass; for fp16 a
# `torch.amp.GradScaler(device)` too, because its small gradients would vanish. `torch.cuda.amp.…` is the old spelling and
# warns. This is what `defectlab.precision` wraps:

# %%
import inspect

print(inspect.getsource(precision.Precision.autocast))
print(inspect.getsource(precision.Precision.scaler))
for name in precision.NAMES:
    print(f"{name}: {'works' if precision.supported(name, DEVICE) else 'is not for this device'} here")

# %% [markdown]
# **Reading.** Note what is *not* there: no `.half()` on the network. Weights stay in fp32 and are cast on the fly, so the
# optimizer can add small steps to large weights. And mind a trap of comparisons: cuDNN's convolutions use TF32 unless told
# otherwise, so whoever measures "fp32" on a GPU without switching that off compares TF32 with itself.
#
# ## Speed and memory
#
# One step is: forward, loss, backward, optimizer. We time steps after some that nobody counts, and on a GPU we wait for it to
# finish before looking at the clock.

# %%
ways = [speed.Way("fp32"), speed.Way("fp32", channels_last=True), speed.Way("bf16"), speed.Way("bf16", channels_last=True)]
ways += [speed.Way("fp16", channels_last=True)] if GPU else []
ways = [speed.Way("tf32"), *ways] if precision.supported("tf32", DEVICE) else ways
ways += [speed.Way("bf16", channels_last=True, compiled=True)] if COMPILE else []
batch, side = (128, 224) if GPU else (4, 64) if SMOKE else (8, 128)
network = speed.ResNet50 if GPU or not SMOKE else DefectNet
steps = 30 if GPU else 2 if SMOKE else 4
measured = [speed.measure(way, network, batch, side, DEVICE, steps=steps) for way in ways]
base = next(found for found in measured if found.way == speed.Way("fp32"))
print(f"{network.__name__}, batch {batch}, {side} × {side}")
for found in measured:
    memory = f"{found.peak_bytes / 1e9:.2f} GB" if found.peak_bytes else "not told by a CPU"
    times = found.images_per_second / base.images_per_second
    print(f"{found.way!s:32}{found.images_per_second:9.1f} images/s {times:6.2f} times   peak memory {memory}")

# %%
plots.bars(
    {str(found.way): found.images_per_second / base.images_per_second for found in measured},
    title=f"Training {network.__name__}, against fp32",
    label="times as fast as fp32 (higher is better)",
    mark=1.4,
    mark_label="the claim: 40 % faster",
)

# %% [markdown]
# **Reading.** On a CPU this table says which way is worth taking *here*; the gains come from the layout and from instructions
# for 16 bits, which not every CPU has. The claim is about GPUs, whose peak memory this table shows as well: until a lab with a
# GPU has run this cell, it is **neither confirmed nor refuted here**.
#
# ## Why: a roofline
#
# A device has two limits: how much it can compute per second, and how many bytes it can fetch per second. A layer that does
# many multiplications per byte meets the first, one that does few meets the second, and fewer bits help with both, but not by
# the same factor. We measure both limits here with two small programs, and then see where a large matrix product, a convolution
# and an addition lie.

# %%
limits = {name: speed.limits(name, DEVICE, small=SMOKE) for name in ("fp32", "bf16")}
for name, limit in limits.items():
    print(f"{name}: {limit.flops / 1e12:8.3f} TFLOP/s, {limit.bytes / 1e9:7.1f} GB/s, equal at {limit.ridge:6.1f} FLOP per byte")
kernels = speed.kernels(DEVICE, small=SMOKE)
for kernel in kernels:
    share = kernel.flops / limits[kernel.precision].at(kernel.intensity)
    place = f"{kernel.intensity:8.1f} FLOP per byte, {kernel.flops / 1e12:8.3f} TFLOP/s"
    print(f"{kernel.name:24}{kernel.precision}: {place}, {share:4.0%} of its roof")

# %%
plots.roofline(
    {name: (limit.flops, limit.bytes) for name, limit in limits.items()},
    [(f"{kernel.name}, {kernel.precision}", kernel.intensity, kernel.flops) for kernel in kernels],
    title=f"Roofline of this {'GPU' if GPU else 'CPU'}",
)

# %% [markdown]
# **Reading.** Each point lies under the roof of its precision, or about on it: additions on the slope, where bytes count, the
# matrix product and the convolution on the flat part, where operations count. A point above its roof says that our program for
# the roof was not the best there is (a convolution may find quicker ways than our matrix product); take roofs for what was
# reached and not for what is possible.
#
# ## And accuracy?
#
# Speed is worth nothing if the network learns less. The same training as in notebook 01's smaller form, same seed, same data,
# in each precision:

# %%
images = data.load(lab.data_folder() / "textures", size=96)
parts = data.split(images.take(range(0, len(images), 6 if SMOKE else 2)), seed=0)
accuracy: dict[str, float] = {}
for name in (found for found in precision.NAMES if precision.supported(found, DEVICE)):
    train.seed_everything(0)
    small = DefectNet(width=8)
    settings = train.Settings(epochs=1 if SMOKE else 6, seed=0, precision=name)
    history = train.fit(small, parts.train, parts.validation, settings, DEVICE, progress=False)
    scores, _ = train.scores(small, parts.validation, DEVICE)
    accuracy[name] = metrics.auroc(parts.validation.labels, scores)
    interval = metrics.bootstrap(metrics.auroc, parts.validation.labels, scores, draws=200)
    print(
        f"{name}: loss {min(history.validation_loss):.3f}, AUROC {interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
    )

# %%
plots.bars(accuracy, title="Validation AUROC after a short training", label="AUROC (higher is better)")

# %% [markdown]
# **Reading.** The intervals overlap widely: with so few images, nobody could tell these apart, and that is the point: the
# difference by precision is smaller than the one between two seeds. Where it is not, look at fp16's scale first: a loss of
# `nan` or a scaler that halves its scale at every step says that gradients overflow.
#
# ## What we learnt
#
# - Say the precision you compare with: "fp32" on a GPU is TF32 unless told otherwise.
# - bf16 needs no scaler, fp16 does; weights stay in fp32 with both.
# - channels last first, then precision, then compile: each is a line, and each is measured alone.
# - Whether a layer gains depends on its place under the roofline, so the gain depends on the network, the batch and the device.
# - A claim about a GPU is checked on a GPU; on this device the table above is what can be said.

# %%
assert all(found.images_per_second > 0 for found in measured)
assert all(limit.flops > 0 and limit.bytes > 0 for limit in limits.values())
assert max(accuracy.values()) - min(accuracy.values()) < 0.15, "a precision learns less than the others"
if GPU and not SMOKE:
    best = max(found.images_per_second for found in measured) / base.images_per_second
    print(f"best: {best:.2f} times fp32; the claim was 1.4 times at half the memory")
print("All checks passed.")
