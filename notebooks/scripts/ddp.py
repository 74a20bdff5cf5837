"""Train a defect model on several GPUs, or on several CPU processes, with torchrun.

    torchrun --standalone --nproc_per_node=gpu  ddp.py --data /workspace/data/textures --out ~/runs/one
    torchrun --standalone --nproc_per_node=2    ddp.py --data /workspace/data/textures --out ~/runs/one   # CPUs, gloo

Every process (*rank*) holds the whole network and sees its own share of every batch; after each backward pass the gradients are
averaged (*all-reduce*), so all ranks take the same step and stay equal. Started again with the same `--out`, a training goes on
from its last checkpoint. torchrun itself starts all ranks again when one dies (`--max-restarts`), and they go on likewise.

Copy it and make it yours: `build_network`, `Images` and `loss_of` are what a project of one's own replaces.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from defectlab import backbone, data, files, lab, metrics, train, transforms
from defectlab.checkpoint import Checkpoint, CheckpointError, Stateful
from defectlab.folders import DataError
from defectlab.model import DefectNet, LiteDefectNet, parameter_groups
from defectlab.precision import Precision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler


@dataclass(frozen=True, slots=True)
class World:
    """Where this process stands among the others.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        local: its number on this host, which is also the number of its GPU.
        device: where it computes.
    """

    rank: int
    size: int
    local: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0


class Images(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Images, labels and masks one by one, as a data loader wants them."""

    def __init__(self, images: data.DataSet) -> None:
        self.images = torch.from_numpy(images.images)
        self.labels = torch.from_numpy(images.labels).float()
        masks = images.masks if images.masks is not None else images.images * 0
        self.masks = torch.from_numpy(masks).float()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.images[index].float().div(255.0).unsqueeze(0), self.labels[index], self.masks[index].unsqueeze(0)


def build_network() -> nn.Module:
    """The network; every rank builds the same one, as the seed is the same."""
    return LiteDefectNet() if backbone.available() else DefectNet()


def loss_of(output: tuple[Tensor, Tensor], labels: Tensor, masks: Tensor) -> Tensor:
    """What to make small."""
    return train.loss(output, labels, masks, map_weight=train.Settings().map_weight)


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Join the other processes: NCCL between GPUs, gloo between CPUs."""
    local, cuda = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        # Each rank its share of the CPUs: together they must not start more threads than there are.
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, int(lab.look().cpus) // ranks))
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), local, device)
    finally:
        dist.destroy_process_group()


class Trainer:
    """One rank's part of a training."""

    def __init__(self, words: argparse.Namespace, here: World, parts: data.Split) -> None:
        self.words, self.here, self.parts = words, here, parts
        train.seed_everything(words.seed)
        network = build_network()
        if words.sync_batchnorm and here.size > 1 and here.device.type == "cuda":
            # Each rank's batch is small: statistics over all ranks' images instead. (PyTorch has this for GPUs alone.)
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network.to(here.device, memory_format=torch.channels_last)
        ids = [here.local] if here.device.type == "cuda" else None
        self.parallel = DistributedDataParallel(self.network, device_ids=ids, gradient_as_bucket_view=True)
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            Images(parts.train), num_replicas=here.size, rank=here.rank, shuffle=True, seed=words.seed, drop_last=True
        )
        self.loader = DataLoader(
            Images(parts.train), words.batch, sampler=self.sampler, num_workers=words.workers, drop_last=True,
            pin_memory=here.device.type == "cuda", persistent_workers=words.workers > 0,
        )  # fmt: skip
        self.precision = Precision(words.precision, here.device.type)
        self.scaler = self.precision.scaler()
        # A batch that is n times as large bears a larger step; the square root is the careful choice for Adam.
        rate = words.rate * (here.size * words.accumulate) ** 0.5
        self.optimizer = torch.optim.AdamW(parameter_groups(self.network, rate), weight_decay=1e-3)
        self.steps = len(self.loader) // words.accumulate
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rates, total_steps=words.epochs * self.steps)
        self.losses: list[float] = []
        self.rates: list[float] = []
        identity = {
            name: getattr(words, name) for name in ("batch", "accumulate", "epochs", "rate", "precision", "seed", "limit")
        }
        identity |= {"data": parts.train.digest, "ranks": here.size}
        self.checkpoint = Checkpoint(words.out / "checkpoint", json.dumps(identity, sort_keys=True))

    @property
    def states(self) -> dict[str, Stateful]:
        return {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}

    def resume(self) -> None:
        """Go on where it was. All ranks read the one file that the first rank wrote, so they agree whoever was killed when."""
        found = self.checkpoint.resume(self.states, torch.Generator())
        if found is not None:
            self.losses, self.rates = found["losses"], found["rates"]

    def save(self) -> None:
        """Keep the state after an epoch; weights are the same on all ranks, so one file is enough."""
        if self.here.first:
            self.checkpoint.save(self.states, torch.Generator(), {"losses": self.losses, "rates": self.rates})

    def epoch(self, number: int) -> tuple[float, float]:
        """Train on every image once, over all ranks; mean loss, and images per second over all ranks."""
        self.parallel.train()
        self.sampler.set_epoch(number)  # without this every epoch has the same order
        # Variation differs from rank to rank and from epoch to epoch, and needs no memory of the epochs before.
        generator = torch.Generator().manual_seed((self.words.seed * 1000 + number) * 1000 + self.here.rank)
        total, began = torch.zeros((), device=self.here.device), time.perf_counter()
        every = self.words.accumulate
        for step, (images, labels, masks) in enumerate(self.loader):
            if step >= self.steps * every:
                break
            images, varied = transforms.GENTLE(
                images.to(self.here.device, non_blocking=True), masks.to(self.here.device, non_blocking=True), generator
            )
            assert varied is not None
            last = (step + 1) % every == 0
            # Gradients are exchanged once per step of the optimizer, and not once per part of its batch.
            with contextlib.nullcontext() if last else self.parallel.no_sync():
                with self.precision.autocast():
                    images = images.contiguous(memory_format=torch.channels_last)
                    loss = loss_of(self.parallel(images), labels.to(self.here.device), varied) / every
                self.scaler.scale(loss).backward()
            total += loss.detach()
            if last:
                self._move()
        dist.all_reduce(total)
        seconds = time.perf_counter() - began
        return float(total) / (self.here.size * self.steps), self.steps * every * self.words.batch * self.here.size / seconds

    def _move(self) -> None:
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() >= scale:
            self.schedule.step()

    def _perhaps_die(self, epoch: int) -> None:
        """To see what happens then: `DDP_DIE=1:2` kills rank 1 after epoch 2, the first time."""
        if os.environ.get("DDP_DIE") == f"{self.here.rank}:{epoch}" and _restarts() == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def equal(self) -> bool:
        """Whether all ranks hold the same weights, to the bit."""
        total = torch.stack([weights.detach().double().sum() for weights in self.network.parameters()]).sum()
        low, high = total.clone(), total.clone()
        dist.all_reduce(low, op=dist.ReduceOp.MIN)
        dist.all_reduce(high, op=dist.ReduceOp.MAX)
        return bool(low == high)

    def run(self) -> dict[str, Any]:
        """Train to the end and judge; the same result on every rank."""
        self.resume()
        for number in range(len(self.losses), self.words.epochs):
            with self.precision.matrices():
                loss, rate = self.epoch(number)
            self.losses.append(loss)
            self.rates.append(rate)
            self.save()
            if self.here.first:
                print(f"epoch {number + 1} of {self.words.epochs}: loss {loss:.4f}, {rate:.0f} images per second", flush=True)
            self._perhaps_die(number + 1)
        scores, _ = train.scores(self.network, self.parts.validation, self.here.device)
        return {
            "ranks": self.here.size, "device": self.here.device.type, "precision": self.words.precision,
            "batch_per_step": self.words.batch * self.words.accumulate * self.here.size,
            "losses": self.losses, "images_per_second": sorted(self.rates)[len(self.rates) // 2] if self.rates else None,
            "validation_auroc": metrics.auroc(self.parts.validation.labels, scores), "equal": self.equal(),
            "restarts": _restarts(),
        }  # fmt: skip


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def cost_of_all_reduce(here: World, numbers: int, repeats: int = 20) -> float:
    """Seconds that the ranks need to average so many numbers."""
    tensor = torch.ones(numbers, device=here.device)
    for _ in range(3):
        dist.all_reduce(tensor)
    dist.barrier()
    if here.device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        dist.all_reduce(tensor)
    if here.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def main() -> int:
    """Train; 0 done, 1 refused with one sentence."""
    words = _parser().parse_args()
    try:
        images = data.load(words.data, size=words.size, progress=False)
        parts = data.split(images, seed=words.seed)
        if words.limit:
            parts = data.Split(parts.train.take(range(min(words.limit, len(parts.train)))), parts.validation, parts.test)
        with world() as here:
            trainer = Trainer(words, here, parts)
            result = trainer.run()
            count = sum(weights.numel() for weights in trainer.network.parameters())
            result |= {"parameters": count, "all_reduce_seconds": cost_of_all_reduce(here, count)}
            if here.first:
                words.out.mkdir(parents=True, exist_ok=True)
                files.replace(words.out / "result.json", f"{json.dumps(result, indent=2)}\n".encode())
                torch.save(trainer.network.state_dict(), words.out / "network.pt")
                trainer.checkpoint.remove()
    except (DataError, CheckpointError, backbone.WeightsError) as error:
        print(f"ddp: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train a defect model with torchrun.")
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the result")
    parser.add_argument("--size", type=int, default=96, help="side of an image in pixels")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32, help="images per rank and pass")
    parser.add_argument("--accumulate", type=int, default=1, help="passes per step of the optimizer")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate of one rank's batch")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16", "fp16"))
    parser.add_argument("--workers", type=int, default=0, help="data loader processes per rank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="train on so many images only")
    parser.add_argument("--sync-batchnorm", action="store_true", help="normalise over all ranks' images (GPUs)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
