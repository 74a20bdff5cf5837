"""defectlab: the small library behind the starter notebooks. Read it, copy from it.

    folders     what a data set looks like on disk: written whole or not at all, checkable afterwards
    defects     scratches, cracks, blobs, pits, stains and smears, drawn into an image together with their pixel masks
    textures    the default data set: real CC0 textures with such defects
    layouts     your own images: folders laid out as MVTec AD, NEU-DET and YOLO do it, checked and read
    data        from a folder to arrays; splits that do not leak
    transforms  variation: turned, moved, in other light; masks follow
    backbone    EfficientNet-Lite0 with what it learnt on ImageNet, from a package and without network
    features    that network used as it is, and a logistic regression on what it sees
    committee   support vector machines on such features, which vote
    folds       cross-validation, at random and by blocks
    model       networks that say whether there is a defect, and where
    resnet      ResNet-50, to be timed
    train       the training loop: seeds, precision, going on after an interruption
    precision   fp32, TF32, bf16 and fp16, spelled right on CPU and GPU
    checkpoint  the file that a training goes on from
    anomaly     finding what is unusual, from good parts alone
    peers       the same question asked of anomalib, where it is installed
    metrics     numbers that say what they rest on
    pixels      the same for maps against masks: PRO and pixel AUROC
    figures     the figures of a run, for those who quote them
    plots       labelled plots
    signals     vibration: spectra, envelopes, and how far a fault stands out of them
    bearings    records of good and damaged bearings, and splits that keep a record whole
    plant       a solar-thermal plant's year, and what it should have delivered
    drift       charts that notice when something no longer does as expected, and how soon
    charts      labelled plots of signals and of days
    labels      labels that people correct, each decision kept
    suspects    which labels to look at first
    labeller    a part to label images in, by keyboard
    monitor     a training that goes on beside the notebook
    widgets     parts that answer: threshold, masks, a training on its way
    pictures    images as HTML, for such parts
    store       a trained model as a file, with what it was trained on
    export      ONNX, torch.export, TorchScript, each compared with the network
    manifest    the sealed slip of paper that goes to the line with a model
    latency     how long one image takes, at the 99th percentile
    quantize    the same in eight bits
    speed       how fast a device trains, and what holds it back
    launch      a script on several processes of this machine
    usage       what your lab uses at this moment
    panel       the same, live in a notebook
    lab         what this lab gives you: CPUs, memory, GPUs
    lease       when this lab ends
    scan        a stranger's folder, looked at with care; mvtec and boxed know the layouts
    files       files that are whole or not there

`python -m defectlab data textures --out FOLDER` writes the default data set, `python -m defectlab data verify FOLDER`
checks any, and `python -m defectlab data check FOLDER` looks through your own images. Nothing here uses the network, but for
the one question of `lease` to the hub, and nothing is imported before it is used: PyTorch only by the parts that need it.
"""

import os

# PyTorch's threads wait for each other by spinning, which on a host that several labs share takes the CPU from the very thread
# they wait for: a training step on two busy cores took 576 ms so, and 111 ms with threads that sleep. Read when PyTorch is
# first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
