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
# # 05 · One training on several GPUs
#
# | | to expect |
# | --- | --- |
# | time on two CPU cores | about 4 minutes |
# | time on a GPU | not measured yet |
# | memory | 2 GB per process |
# | network | none (processes talk within this machine) |
#
# **Aim.** Take the training of notebook 01 from one process to several with `torchrun` and DistributedDataParallel (DDP): what
# has to change, what it costs that the processes talk, how far it scales here, and what happens when one of them is killed. The
# claim to check is "3.6 times as fast on 4 GPUs".
#
# **Data and licences.** The default data set, `textures` (CC0). Without GPUs everything runs on CPUs, through *gloo* in place
# of *NCCL*; the figures are another matter then, and the text says so.

# %%
import json
import os
import tempfile
from pathlib import Path

import torch
from defectlab import lab, launch, plots

SMOKE = os.environ.get("GPULAB_SMOKE") == "1"  # a short trial run: few images, one epoch less
given = lab.look()
GPUS = torch.cuda.device_count()
MOST = GPUS or max(2, int(given.cpus))  # ranks to try; on CPUs two at least, to see how it works
RUNS = Path(tempfile.mkdtemp(prefix="ddp-"))
print(f"{GPUS} GPUs, {given.cpus:g} CPUs: up to {MOST} ranks")

# %% [markdown]
# ## What changes in the code
#
# A *rank* is one process with one GPU. All ranks run the same script; each knows its number. Compared with notebook 01:
#
# 1. `init_process_group("nccl")` (or `"gloo"` on CPUs) makes the ranks find each other.
# 2. `DistributedSampler` gives every rank another share of the images. `sampler.set_epoch(n)`, or every epoch has the same order.
# 3. `DistributedDataParallel(network)` averages the gradients over all ranks during the backward pass (*all-reduce*), so all take
#    the same step and their weights stay equal to the bit.
# 4. Only rank 0 prints and writes.
#
# The script lies beside the notebooks, to be copied and changed. Here are its parts that have to do with this:

# %%
script = launch.SCRIPTS / "ddp.py"
source = script.read_text().splitlines()
starts = [i for i, line in enumerate(source) if line.startswith(("def world", "class Trainer"))]
for start in starts:
    print("\n".join(source[start : start + 26]), "\n    …\n")

# %% [markdown]
# ## Start it
#
# In a terminal you would write `torchrun --standalone --nproc_per_node=2 ddp.py --data … --out …`. A notebook's kernel is one
# process and must not become several, so we start torchrun beside it.


# %%
def train_on(ranks: int, name: str, *words: str, **more) -> dict:
    """Train on so many ranks; what the script measured."""
    size = ("--epochs", "2", "--limit", "128" if SMOKE else "720", "--batch", "16", "--seed", "0")
    out = RUNS / name
    done = launch.torchrun(script, ranks, "--data", str(lab.data_folder() / "textures"), "--out", str(out), *size, *words, **more)
    assert done.code == 0, done.output[-3000:]
    return {**json.loads((out / "result.json").read_text()), "wall": done.seconds}


print(" ".join(launch.command("ddp.py", 2, "--data", "…", "--out", "…")))

# %% [markdown]
# ## Scaling
#
# The same images per rank and step (*weak scaling*, the usual way): with n ranks, a step sees n times as many images.

# %%
counts = sorted({1, 2, *(n for n in (4, 8) if n <= MOST)})
scaling = {ranks: train_on(ranks, f"ranks-{ranks}") for ranks in counts}
one = scaling[1]["images_per_second"]
print(f"{'ranks':>6}{'images/s':>10}{'times':>8}{'efficiency':>12}{'step sees':>11}{'wall, s':>9}")
for ranks, found in scaling.items():
    times = found["images_per_second"] / one
    seen, wall = found["batch_per_step"], found["wall"]
    print(f"{ranks:6}{found['images_per_second']:10.0f}{times:8.2f}{times / ranks:12.0%}{seen:11}{wall:9.1f}")

# %%
plots.lines(
    {
        "measured": (counts, [scaling[n]["images_per_second"] / one for n in counts]),
        "perfect": (counts, counts),
        "the claim: 3.6 times on 4": ([1, 4], [1, 3.6]),
    },
    title=f"Scaling on {'GPUs' if GPUS else 'CPUs'}",
    xlabel="ranks",
    ylabel="times as fast as one rank",
)

# %% [markdown]
# **Reading.** On CPUs this shows that it works, and nothing about GPUs: one rank already uses what cores there are (PyTorch's
# threads), so two ranks share the same cores and can at best be as fast; what they lose is the price of talking. The claim of
# 3.6 times on 4 needs 4 GPUs, and until a lab with 4 GPUs has run this cell, it is **neither confirmed nor refuted here**. On
# GPUs with NVLink and a network of this size one would expect more than that; with a data loader that cannot keep up, less.
#
# Note the column *wall*: starting Python on every rank takes seconds. For a training of a minute, DDP is not worth it.
#
# ## What all-reduce costs
#
# Every step moves all gradients once around the ring of ranks: about 2 · (n − 1) / n times the size of the network in each
# direction. How long is that, against a step?

# %%
two = scaling[2]
megabytes = two["parameters"] * 4 / 1e6
step = 2 * 16 / two["images_per_second"]
print(
    f"{two['parameters']:,} gradients, {megabytes:.1f} MB: {1000 * two['all_reduce_seconds']:.1f} ms per all-reduce over 2 ranks"
)
print(
    f"a step takes {1000 * step:.0f} ms, so talking would take {two['all_reduce_seconds'] / step:.1%} of it if nothing overlapped"
)

# %% [markdown]
# **Reading.** DDP sends gradients in buckets while the backward pass still computes the earlier layers, so much of this is
# hidden. When it is not, the cure is to talk less often: **gradient accumulation** adds up the gradients of several passes, and
# talks once per step of the optimizer (`no_sync` in the script). It is also how to have large batches on little memory.

# %%
accumulated = train_on(2, "accumulate", "--accumulate", "4")
plots.bars(
    {
        "2 ranks": two["images_per_second"],
        "2 ranks, talking every 4th pass": accumulated["images_per_second"],
    },
    title="Gradient accumulation",
    label="images per second (higher is better)",
)

# %% [markdown]
# **Reading.** The gain is at most the share that talking had. It is not free: with four times the batch there are a quarter as
# many steps, and the learning rate has to follow (the script takes the square root, the careful choice for Adam).
#
# One more thing talks: **batch norm**. Each rank normalises by its own images; with two images per GPU, these statistics are
# noise. `SyncBatchNorm` takes them over all ranks, at the price of one more exchange per layer. PyTorch has it for GPUs alone:
# `--sync-batchnorm`. With 16 and more images per rank you will not see a difference.
#
# ## When a rank is killed
#
# On a shared machine this happens: memory runs out, and the kernel takes one process. The others wait for it in the all-reduce.
# `torchrun --max-restarts=1` ends them and starts all ranks again; the script goes on from its last checkpoint. We kill rank 1
# after the first epoch, and compare with the run from above that nobody disturbed.

# %%
killed = train_on(2, "killed", restarts=1, env={"DDP_DIE": "1:1"})
print(f"restarts: {killed['restarts']}; losses {killed['losses']}")
print(f"undisturbed:         losses {two['losses']}")
weights = [torch.load(RUNS / name / "network.pt", weights_only=True) for name in ("ranks-2", "killed")]
same = all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
print("all weights equal to the bit:", same)

# %% [markdown]
# **Reading.** Not similar: equal. That takes more than saving weights: the optimizer's memory, the learning rate's place in its
# schedule, and random numbers that depend on seed, rank and epoch alone, never on what ran before.
#
# One trap is in `launch.torchrun`: since PyTorch 2.5, restarted ranks may find the addresses of the dead ones and fail with
# *connection refused*. Setting `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` avoids that.
#
# ## What we learnt
#
# - DDP is four changes to a script; the mistakes are a forgotten `set_epoch`, a learning rate that does not follow the batch, and
#   every rank writing the same file.
# - What matters is images per second *and* the batch that a step sees: both change with the ranks.
# - Accumulation buys large batches and less talking, and pays in fewer steps.
# - A checkpoint is only one if going on from it gives the same result. Test it by killing a rank.
# - Claims about GPUs are checked on GPUs. On CPUs we checked that the program is right.

# %%
import shutil

assert all(found["equal"] for found in (*scaling.values(), accumulated, killed)), "ranks ended with different weights"
assert same, "the training that was disturbed ended elsewhere"
assert killed["restarts"] == 1
assert two["batch_per_step"] == 2 * scaling[1]["batch_per_step"]
if GPUS >= 4 and not SMOKE:
    print(f"on 4 GPUs: {scaling[4]['images_per_second'] / one:.2f} times; the claim was 3.6")
shutil.rmtree(RUNS)
print("All checks passed.")
