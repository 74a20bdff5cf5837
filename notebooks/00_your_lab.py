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
# # 00 · Your lab
#
# | | to expect |
# | --- | --- |
# | time on two CPU cores | 8 seconds |
# | time on a GPU | the same |
# | memory | 1.4 GB |
# | network | one question to the hub: when this lab ends |
#
# **Aim.** See what this lab gives you: CPUs, memory, GPUs, folders; watch it being used; and run into each limit once, on
# purpose, so that you know it when it happens by accident. No data are used, so there is no licence to mind.

# %%
import os

from defectlab import backbone, figures, lab, lease, panel, usage

SMOKE = os.environ.get("GPULAB_SMOKE") == "1"  # a short trial run: smaller matrices
TRY_MEMORY = False  # True fills the memory once, in a process that is there to be killed; see below

given = lab.look()
print(given)
print(f"{'ends':14}{lease.end()}")

# %% [markdown]
# **Reading.** This is what you were *given*, not what the host has: on a host with 64 CPUs you may well read "CPUs 4". A GPU
# that is called *simulated* has no device behind it. Such GPUs let a lab without GPUs show how sharing works; computing happens
# on the CPU then.
#
# *ends* is when the hub stops this lab, if your profile has a longest life; save before, and expect a warning.
#
# GPUs are yours alone as long as the lab runs, and others may be waiting for them. So a lab that holds GPUs and uses none gets
# a notice, then a warning with the moment at which it is stopped and a button to extend, and then it is stopped. All of this is
# shown on top of this window and on the board, where you also see who holds what, and until when:

# %%
from IPython.display import HTML

HTML(
    f"<p>You are <b>{lab.user()}</b>. The board: <a href='{lab.hub_path('gpus')}' target='_blank'>who holds which GPU</a>. "
    f"Your labs: <a href='{lab.hub_path('home')}' target='_blank'>start and stop</a>.</p>"
)

# %% [markdown]
# Something is broken, too small, or missing? Ask the admin of this lab, and say the profile and the lease from above: with
# these two, they find your lab in their logs.
#
# ## Watch it
#
# The panel looks every second. Leave it there while you work.

# %%
view = panel.LabPanel()
view

# %% [markdown]
# Let us give it something to show. How long does the same product of two matrices take with more threads?

# %%
import time

import torch

size, repeats = (512, 5) if SMOKE else (2048, 10)
matrix = torch.rand(size, size, generator=torch.Generator().manual_seed(0))
cpus = max(1, int(given.cpus))
seconds: dict[int, float] = {}
for threads in sorted({1, cpus, 2 * cpus}):
    torch.set_num_threads(threads)
    torch.mm(matrix, matrix)
    began = time.perf_counter()
    for _ in range(repeats):
        torch.mm(matrix, matrix)
    seconds[threads] = (time.perf_counter() - began) / repeats
torch.set_num_threads(cpus)

# %%
from defectlab import plots

plots.bars(
    {f"{threads} threads": 1000 * value for threads, value in seconds.items()},
    title="One product of two matrices",
    label="milliseconds (lower is better)",
)

# %% [markdown]
# **Reading.** More threads help up to the number of CPUs that you were given. Beyond it they only stand in each other's way:
# the kernel lets them run by turns, and stops all of them for the rest of each tenth of a second once your share is used up.
# PyTorch left alone starts a thread per CPU of the *host*; `lab.device()`, which all notebooks here call, sets it right.
#
# ## Where to put things

# %%
folders = usage.folders()
rows = [("folder", "for", "you may", "free")]
for folder in folders:
    may = "read and write" if folder.writable else "read" if folder.there else "nothing: it is not there"
    rows.append((str(folder.path), folder.purpose, may, f"{folder.free / 1024**3:.1f} GiB"))
for row in rows:
    print(f"{row[0]:22}{row[1]:64}{row[2]:28}{row[3]}")

# %% [markdown]
# **Reading.** What you write to your home is there in your next lab; what you install with `pip install` goes there, too.
# Everything else in the lab is as new each time it starts. Data sets are the same for all and mostly not yours to change:

# %%
try:
    (lab.data_folder() / ".try").write_text("mine")
    (lab.data_folder() / ".try").unlink()
    print(f"You may write to {lab.data_folder()}: please do so only with data sets that others can use, too.")
except OSError as error:
    print(f"{lab.data_folder()}: {error.strerror}. Ask your admin to install a data set, or put yours into ~/data.")

# %% [markdown]
# ## The limit of shared memory
#
# Data loader processes hand their batches over in `/dev/shm`. When it is full, PyTorch speaks of a *bus error*, which sounds
# like broken hardware and is not. We fill it on purpose with a file, and take that away again.

# %%
from pathlib import Path

filler = Path("/dev/shm/gpulab-try")  # noqa: S108 - the lab's own shared memory, in which nobody else can wait with a link
written, most = 0, 64 * 1024**2 if SMOKE else given.shm + 1
try:
    with filler.open("wb") as file:
        while written < most:
            written += file.write(bytes(min(16 * 1024**2, most - written)))
    print(f"{written / 1024**3:.2f} GiB fitted in")
except OSError as error:
    print(f"after {written / 1024**3:.2f} GiB: {error.strerror}")
finally:
    filler.unlink(missing_ok=True)

# %% [markdown]
# **Reading.** The end came where `shared memory` above said. If a data loader meets it, use fewer workers or smaller batches,
# or a profile with more.
#
# ## The limit of memory
#
# This one is different: there is no error message. The kernel of the host kills a process, and in a notebook that is mostly the
# one with your variables: "The kernel appears to have died". The cell below shows it without harm, in a child process that asks
# to be killed first. It is off because filling the memory takes a while; set `TRY_MEMORY = True` above to see it.

# %%
import signal
import subprocess
import sys

HUNGRY = """
open("/proc/self/oom_score_adj", "w").write("1000")  # kill me first
kept = []
while True:
    kept.append(b"x" * 64 * 1024**2)
    print(f"{len(kept) * 64 / 1024:.2f} GiB", flush=True)
"""
if TRY_MEMORY:
    done = subprocess.run([sys.executable, "-c", HUNGRY], capture_output=True, text=True, check=False, timeout=300)
    ended = signal.Signals(-done.returncode).name if done.returncode < 0 else done.returncode
    print(f"it had {(done.stdout.split(chr(10)) or [''])[-2]} and ended with {ended}")
else:
    print(f"not tried; the limit is {given.memory / 1024**3:.1f} GiB, in use are {(usage.now().memory or 0) / 1024**3:.2f} GiB")

# %% [markdown]
# ## GPUs
#
# PyTorch counts the GPUs it can use; that is what was given, less the simulated ones. Frozen features of one image show that
# everything works, from the weights that come with the lab to the device.

# %%
device = lab.device()
network = backbone.pretrained().to(device)
with torch.inference_mode():
    embedding = network.embed(torch.rand(1, 3, 224, 224, device=device))
print(f"{torch.cuda.device_count()} GPUs for PyTorch {torch.__version__}; computing on {device}")
for number in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(number)
    print(f"  {number}: {torch.cuda.get_device_name(number)}, {free / 1024**3:.1f} of {total / 1024**3:.1f} GiB free")

# %% [markdown]
# ## What we learnt
#
# - A lab has limits of its own, and programs that ask the host get the wrong answer: ask `lab.look()`.
# - Full shared memory is a *bus error*; full memory is a dead kernel, without any message.
# - Home and models last, the rest does not.
# - GPUs that do nothing go back to those who wait; the board says when.
#
# **Go on** with `01_first_defect_model`.

# %%
view.stop()
real = sum(not gpu.simulated for gpu in given.gpus)
assert embedding.shape == (1, backbone.EMBEDDING), "the network from the lab's own weights does not work"
assert bool(torch.isfinite(embedding).all()), "the device computes nonsense"
assert torch.cuda.device_count() >= real, (
    f"{real} GPUs were given, and PyTorch finds {torch.cuda.device_count()}: tell your admin"
)
assert not filler.exists()
figures.record({
    "cpus": given.cpus, "memory_bytes": given.memory, "shm_bytes": given.shm,
    "product_ms": {f"{threads} threads": 1000 * value for threads, value in seconds.items()},
})  # fmt: skip
print("All checks passed.")
