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
# | time on two CPU cores | about 4 minutes |
# | time on a GPU | not measured yet |
# | memory | 4.2 GB with `torch.compile`, which a CPU lab of less than 6 GB leaves out; on a GPU not measured yet |
# | network | none |
#
# **Aim.** Train the same network in fp32, TF32, bf16 and fp16, with *channels last* and with `torch.compile`, and put images
# per second, memory and accuracy side by side. Then read from a *roofline* why the figures are what they are. The claim to
# check is "about 40 % faster with half the memory on ResNet-50", which is about GPUs.
#
# **Data and licences.** Random images for the speed of ResNet-50: speed does not depend on what they show. For accuracy,
# `textures` (CC0). ResNet-50 is built here from its paper and starts from nothing; no weights are needed.

# %%
import os

import torch
from defectlab import data, figures, lab, metrics, plots, precision, speed, train
from defectlab.model import DefectNet, parameters
from defectlab.resnet import ResNet50
from tqdm.auto import tqdm

SMOKE = os.environ.get("GPULAB_SMOKE") == "1"  # a short trial run: few steps, a small network
DEVICE = lab.device()
GPU = DEVICE == "cuda"
COMPILE = not SMOKE and (GPU or lab.look().memory > 6 * lab.GIB)  # on a CPU, the compilers take more than 2 GiB for a minute
print(torch.cuda.get_device_name() if GPU else f"CPU, {lab.look().cpus:g} of them", "| PyTorch", torch.__version__)
print(f"ResNet-50 has {parameters(ResNet50()) / 1e6:.1f} million parameters; published are 25.6 million")

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
# finish before looking at the clock. *Kept* is what the forward pass keeps for the backward pass, counted to the byte; the
# *peak* is what a GPU reports, with weights, gradients and the optimizer's memory.

# %%
FP32 = speed.Way("fp32")
ways = [FP32, speed.Way("fp32", channels_last=True), speed.Way("bf16"), speed.Way("bf16", channels_last=True)]
ways += [speed.Way("fp16", channels_last=True)]
ways = [speed.Way("tf32"), *ways] if precision.supported("tf32", DEVICE) else ways
ways = [way for way in ways if precision.supported(way.precision, DEVICE)]
if COMPILE:
    ways += [speed.Way("bf16" if precision.supported("bf16", DEVICE) else "fp16", channels_last=True, compiled=True)]
batch, side = (128, 224) if GPU else (4, 64) if SMOKE else (8, 128)
network = ResNet50 if GPU or not SMOKE else DefectNet
steps = {way: 30 if GPU else 1 if SMOKE or way.precision == "fp16" else 8 for way in ways}
measured = {
    way: speed.measure(way, network, batch, side, DEVICE, steps=steps[way]) for way in tqdm(ways, desc="measuring", unit=" ways")
}
base = measured[FP32]


def told(found: speed.Speed) -> str:
    """One line of the table."""
    peak = f"{found.peak_bytes / 1e9:6.2f} GB peak" if found.peak_bytes else ""
    times = found.images_per_second / base.images_per_second
    return f"{found.images_per_second:9.1f} images/s {times:6.2f} times   {found.kept_bytes / 1e6:8.0f} MB kept {peak}"


print(f"{network.__name__}, batch {batch}, {side} × {side}")
for way, found in measured.items():
    print(f"{way!s:32}{told(found)}")

# %%
plots.bars(
    {str(way): found.images_per_second / base.images_per_second for way, found in measured.items()},
    title=f"Training {network.__name__}, against fp32",
    label="times as fast as fp32 (higher is better)",
    mark=1.4,
    mark_label="the claim: 40 % faster",
)

# %% [markdown]
# **Reading.** This says which way is worth taking *on this device*. On a CPU, bf16 needs instructions of its own, and even
# these promise nothing: the run whose figures are kept with this lab's sources had them, multiplied matrices in bf16 much
# faster (see the roofline below), and yet trained the whole network more slowly. Why, it does not say. Hardly any CPU has
# instructions for fp16, which is emulated then and slower by an order of magnitude or more: fp16 is a format for GPUs.
# `torch.compile` pays on GPUs, where it joins many small operations; on a CPU it first costs a minute and gigabytes, so it is
# left out where there is little memory. When something else runs on the same CPUs, a few steps are a poor measure:
# differences of less than two times may be the neighbours', so run the cell again before you believe them.
#
# ## Half the memory?
#
# A step's memory has two parts. Weights, gradients and momentum stay in fp32 whatever we choose, three numbers per parameter.
# What is kept for the backward pass is in the precision of the forward pass, and grows with the batch. So the saving depends on
# the batch, and can be foretold: we count twice, at two batch sizes, and extend the line.

# %%
fixed = 3 * 4 * parameters(network())
small_side, sizes = (64, [2, 4]) if SMOKE else (128, [4, 8])  # counted on the CPU
grown = {}
for way in (FP32, speed.Way("bf16")):
    few, many = (speed.kept_bytes(way, network, size, small_side, "cpu") for size in sizes)
    each = (many - few) / (sizes[1] - sizes[0])
    grown[way] = (fixed + few - each * sizes[0], each * (224 / small_side) ** 2)
batches = [1, 8, 32, 128]
shares = [
    (grown[speed.Way("bf16")][0] + n * grown[speed.Way("bf16")][1]) / (grown[FP32][0] + n * grown[FP32][1]) for n in batches
]
for n, share in zip(batches, shares, strict=True):
    print(f"batch {n:4}: {share:.2f} of fp32's {(grown[FP32][0] + n * grown[FP32][1]) / 1e9:.2f} GB")
plots.lines(
    {"bf16": (batches, shares), "the claim: half": (batches, [0.5] * 4)},
    title=f"Memory of a step of {network.__name__} at 224 × 224, counted",
    xlabel="images per batch",
    ylabel="share of what fp32 needs",
)

# %% [markdown]
# **Reading.** With one image hardly anything is saved: the weights' 16-bit copies even come on top. With a large batch the
# share falls towards a half, and never below. What a GPU needs beside it, for its convolutions and for the holes between the
# pieces of memory, is not in this count.
#
# ## Why: a roofline
#
# A device has two limits: how much it can compute per second, and how many bytes it can fetch per second. A layer that does
# many multiplications per byte meets the first, one that does few meets the second, and fewer bits help with both, but not by
# the same factor. We measure both limits here with two small programs, and then see where a large matrix product, a convolution
# and an addition lie.

# %%
names = [name for name in ("fp32", "tf32", "bf16") if precision.supported(name, DEVICE)]
limits = {name: speed.limits(name, DEVICE, small=SMOKE) for name in names}
for name, limit in limits.items():
    print(f"{name}: {limit.flops / 1e12:8.3f} TFLOP/s, {limit.bytes / 1e9:7.1f} GB/s, equal at {limit.ridge:6.1f} FLOP per byte")
kernels = [kernel for kernel in speed.kernels(DEVICE, small=SMOKE) if kernel.precision in limits]
for kernel in kernels:
    share = kernel.flops / limits[kernel.precision].at(kernel.intensity)
    place = f"{kernel.intensity:8.1f} FLOP per byte, {kernel.flops / 1e12:8.3f} TFLOP/s"
    print(f"{kernel.name:24}{kernel.precision}: {place}, {share:4.0%} of its roof")
work = speed.operations(network, 2, side)
reached = {
    way: work * found.images_per_second / limits[way.precision].flops
    for way, found in measured.items()
    if way.precision in limits
}
print(f"training {network.__name__} takes {work / 1e9:.1f} GFLOP per image; of the flat part of the roof it reaches")
for way, share in reached.items():
    print(f"  {way!s:32}{share:4.0%}")

# %%
plots.roofline(
    {name: (limit.flops, limit.bytes) for name, limit in limits.items()},
    [(f"{kernel.name}, {kernel.precision}", kernel.intensity, kernel.flops) for kernel in kernels],
    title=f"Roofline of this {'GPU' if GPU else 'CPU'}",
)

# %% [markdown]
# **Reading.** Each point should lie under the roof of its precision, or about on it: additions on the slope, where bytes count,
# the matrix product and the convolution on the flat part, where operations count. A point above its roof says that our program
# for the roof was not the best there is, or was disturbed. In the run that is kept, others used the CPUs too, and the
# convolutions lie above their roofs by more than a half: its roofs are too low, and its shares of them too high. Take roofs for
# what was reached and not for what is possible.
#
# The last lines place the whole network. Its convolutions belong on the flat part and could gain as much as that rises from
# fp32 to bf16; but between them lie batch norm, ReLU and additions, which are on the slope and gain a factor of two at most, by
# moving half the bytes. That is why a network gains less than its matrix products do, and why compiling, which joins those
# small steps and moves their bytes once, helps where bytes are what one waits for.
#
# ## And accuracy?
#
# Speed is worth nothing if the network learns less. A small network, the same data, in each precision; and in fp32 with two
# more seeds, to know how much is chance.

# %%
images = data.load(lab.data_folder() / "textures", size=96, progress=False)
parts = data.split(images.take(range(0, len(images), 6 if SMOKE else 2)), seed=0)
EPOCHS = 1 if SMOKE else 6


def learnt(name: str, seed: int) -> metrics.Estimate:
    """Validation AUROC after a short training."""
    train.seed_everything(seed)
    small = DefectNet(width=8)
    settings = train.Settings(epochs=EPOCHS, seed=seed, precision=name)
    train.fit(small, parts.train, parts.validation, settings, DEVICE, progress=False)
    scores, _ = train.scores(small, parts.validation, DEVICE)
    return metrics.bootstrap(metrics.auroc, parts.validation.labels, scores, draws=200)


runs = [(name, 0) for name in precision.NAMES if precision.supported(name, DEVICE)]
runs += [] if SMOKE else [("fp32", 1), ("fp32", 2)]
accuracy = {f"{name}, seed {seed}": learnt(name, seed) for name, seed in tqdm(runs, desc="training", unit=" runs")}
print("way, its speed and memory with ResNet-50, and AUROC of the small network in the same precision")
for way, found in measured.items():
    area = accuracy[f"{way.precision}, seed 0"]
    print(f"{way!s:32}{told(found)}   AUROC {area.value:.3f} ({area.low:.3f} to {area.high:.3f})")

# %%
plots.bars(
    {name: found.value for name, found in accuracy.items()},
    title="Validation AUROC after a short training",
    label="AUROC (higher is better)",
)

# %% [markdown]
# **Reading.** Compare the bars of one seed in several precisions with those of fp32 in several seeds, and both with the
# intervals in the table: nobody could tell the precisions apart by this. That is the point, and it is all that a short training
# of a small network on few images can say. Where a precision does differ, look at fp16's scale first: a loss of `nan`, or a
# scaler that halves its scale at every step, says that gradients overflow.
#
# ## The claim
#
# "About 40 % faster with half the memory" is a claim about GPUs. A lab with a GPU holds it against the table here, together
# with a bar of our own: 16 bits with *channels last*, compiled or not, at least 2.5 times as fast as true fp32, at no more than
# 0.6 of its peak memory.

# %%
best = max(
    (way for way in ways if way.precision in ("bf16", "fp16") and way.channels_last), key=lambda w: measured[w].images_per_second
)
times = measured[best].images_per_second / base.images_per_second
print(f"{best}: {times:.2f} times as fast as fp32")
if GPU:
    memory = measured[best].peak_bytes / base.peak_bytes
    print(f"its peak memory: {memory:.2f} of fp32's")
    print(f"the claim (1.4 times, half the memory): {'holds' if times >= 1.4 and memory <= 0.5 else 'does not hold'} here")
    print(f"the bar (2.5 times, 0.6 of the memory): {'met' if times >= 2.5 and memory <= 0.6 else 'missed'}")
else:
    print("No GPU here: the claim and the bar were not measured yet, neither confirmed nor refuted.")

# %% [markdown]
# ## What we learnt
#
# - Say the precision you compare with: "fp32" convolutions on a GPU are TF32 unless told otherwise.
# - bf16 needs no scaler, fp16 does; weights stay in fp32 with both.
# - channels last first, then precision, then compile: each is a line, and each is measured alone.
# - Whether a layer gains depends on its place under the roofline, so the gain depends on the network, the batch and the device.
# - Half the memory is the limit for large batches, because weights, gradients and momentum stay as they are.
# - A claim about a GPU is checked on a GPU; on this device the tables above are what can be said.

# %%
assert parameters(ResNet50()) == 25_557_032, "this is not ResNet-50"
assert all(found.images_per_second > 0 for found in measured.values())
assert all(limit.flops > 0 and limit.bytes > 0 for limit in limits.values())
assert shares == sorted(shares, reverse=True), "the share of memory should fall with the batch"
zero = [found.value for name, found in accuracy.items() if name.endswith("seed 0")]
assert max(zero) - min(zero) < 0.15, "a precision learns less than the others"
recorded = {
    "batch": batch,
    "side": side,
    "parameters": parameters(network()),
    "train_images": len(parts.train),
    "validation_images": len(parts.validation),
    "images_per_second": {str(way): found.images_per_second for way, found in measured.items()},
    "times_fp32": {str(way): found.images_per_second / base.images_per_second for way, found in measured.items()},
    "kept_bytes": {str(way): found.kept_bytes for way, found in measured.items()},
    "counted_memory_share": {f"batch {n}": share for n, share in zip(batches, shares, strict=True)},
    "roof_tflops": {name: limit.flops / 1e12 for name, limit in limits.items()},
    "roof_gigabytes_per_second": {name: limit.bytes / 1e9 for name, limit in limits.items()},
    "kernel_tflops": {f"{kernel.name} {kernel.precision}": kernel.flops / 1e12 for kernel in kernels},
    "kernel_flop_per_byte": {f"{kernel.name} {kernel.precision}": kernel.intensity for kernel in kernels},
    "share_of_roof": {str(way): share for way, share in reached.items()},
    "auroc": accuracy,
}
if GPU:
    recorded["peak_bytes"] = {str(way): found.peak_bytes for way, found in measured.items()}
figures.record(recorded)
print("All checks passed.")
