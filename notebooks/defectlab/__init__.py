"""defectlab: the small library behind the starter notebooks. Read it, copy from it.

    folders    what a data set looks like on disk: written whole or not at all, checkable afterwards
    defects    scratches, cracks, blobs, pits, stains and smears, drawn into an image together with their pixel masks
    textures   the default data set: real CC0 textures with such defects
    data       from a folder to arrays; splits that do not leak
    model      a small network that says whether there is a defect, and where
    train      the training loop
    metrics    numbers that say what they rest on
    plots      labelled plots
    store      a trained model as a file, with what it was trained on
    lab        what this lab gives you: CPUs, memory, GPUs

`python -m defectlab data textures --out FOLDER` writes the default data set, `python -m defectlab data verify FOLDER`
checks any. Nothing here uses the network, and nothing is imported before it is used: PyTorch only by the parts that need it.
"""

import os

# PyTorch's threads wait for each other by spinning, which on a host that several labs share takes the CPU from the very thread
# they wait for: a training step on two busy cores took 576 ms so, and 111 ms with threads that sleep. Read when PyTorch is
# first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
