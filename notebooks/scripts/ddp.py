"""Train a defect model on several GPUs, or on several CPU processes, with torchrun.

    torchrun --standalone --nproc_per_node=gpu ddp.py --data /workspace/data/textures --out ~/runs/one     # NCCL
    torchrun --standalone --nproc_per_node=2   ddp.py --data /workspace/data/textures --out ~/runs/one     # CPUs: gloo

With --max-restarts=1 torchrun starts all ranks again when one dies, and they go on from the last checkpoint; set
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 then (`defectlab/launch.py` says why, and does). Started again with the same --out, a
training that was cut off goes on, too; one that is done says so.

Every process (*rank*) holds the whole network and sees its own share of every batch; after each backward pass the gradients are
averaged (*all-reduce*), so all ranks take the same step and stay equal. Rank 0 alone prints and writes, whole files or none:
OUT/checkpoint after every epoch, and at the end OUT/network.pt and OUT/result.json.

Copy it and make it yours: `build_network`, `Images` and `loss_of` are what a project of one's own replaces.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from defectlab import backbone, data, files, launch, metrics, ranks, train, transforms, words
from defectlab.checkpoint import Checkpoint, CheckpointError, Stateful
from defectlab.folders import DataError
from defectlab.model import DefectNet, LiteDefectNet, parameter_groups, parameters
from defectlab.precision import NAMES, Precision, supported
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

# What must be the same for going on: with any of it changed, it would be another training.
IDENTITY = ("size", "batch", "accumulate", "epochs", "rate", "precision", "seed", "limit", "sync_batchnorm")


class Refused(Exception):
    """This cannot be done; its text is one sentence for a person, with what to do."""


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


class Trainer:
    """One rank's part of a training."""

    def __init__(self, asked: argparse.Namespace, here: ranks.World, parts: data.Split) -> None:
        self.asked, self.here, self.parts = asked, here, parts
        cuda = here.device.type == "cuda"
        train.seed_everything(asked.seed)
        network = build_network()
        if asked.sync_batchnorm:
            # Each rank's batch is small: statistics over all ranks' images instead.
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network.to(here.device, memory_format=torch.channels_last)
        self.parallel = DistributedDataParallel(
            self.network, device_ids=[here.local] if cuda else None, gradient_as_bucket_view=True
        )
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            Images(parts.train), num_replicas=here.size, rank=here.rank, shuffle=True, seed=asked.seed, drop_last=True
        )
        self.loader = DataLoader(
            Images(parts.train), asked.batch, sampler=self.sampler, num_workers=asked.workers, drop_last=True,
            pin_memory=cuda, persistent_workers=asked.workers > 0,
        )  # fmt: skip
        self.precision = Precision(asked.precision, here.device.type)
        self.scaler = self.precision.scaler()
        # A batch that is n times as large bears a larger step; the square root is the careful choice for Adam.
        rate = asked.rate * (here.size * asked.accumulate) ** 0.5
        self.optimizer = torch.optim.AdamW(parameter_groups(self.network, rate), weight_decay=1e-3)
        self.steps = steps_of(asked, len(parts.train), here.size)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rates, total_steps=asked.epochs * self.steps)
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.checkpoint = Checkpoint(asked.out / "checkpoint", identity_of(asked, parts, here.size))

    @property
    def states(self) -> dict[str, Stateful]:
        return {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}

    def resume(self) -> None:
        """Go on where it was. All ranks read the one file that the first rank wrote, so they agree whoever was killed when."""
        found = self.checkpoint.resume(self.states, torch.Generator())
        if found is not None:
            self.losses, self.rates = found["losses"], found["rates"]
            if self.here.first:
                print(f"going on after epoch {len(self.losses)}", flush=True)

    def save(self) -> None:
        """Keep the state after an epoch; weights are the same on all ranks, so one file is enough."""
        if self.here.first:
            self.checkpoint.save(self.states, torch.Generator(), {"losses": self.losses, "rates": self.rates})

    def epoch(self, number: int) -> tuple[float, float]:
        """Train on every image once, over all ranks; mean loss, and images per second over all ranks."""
        self.parallel.train()
        self.sampler.set_epoch(number)  # without this every epoch has the same order
        # Variation and dropout differ from rank to rank and from epoch to epoch, and need no memory of the epochs before.
        chance = (self.asked.seed * 1000 + number) * 1000 + self.here.rank
        generator = torch.Generator().manual_seed(chance)
        torch.manual_seed(chance)
        loss, began = torch.zeros((), device=self.here.device), time.perf_counter()
        every = self.asked.accumulate
        for step, (images, labels, masks) in enumerate(self.loader):
            if step >= self.steps * every:
                break
            self._perhaps_die(number, step)
            images, varied = transforms.GENTLE(
                images.to(self.here.device, non_blocking=True), masks.to(self.here.device, non_blocking=True), generator
            )
            assert varied is not None
            last = (step + 1) % every == 0
            # Gradients are exchanged once per step of the optimizer, and not once per part of its batch.
            with contextlib.nullcontext() if last else self.parallel.no_sync():
                with self.precision.autocast():
                    images = images.contiguous(memory_format=torch.channels_last)
                    part = loss_of(self.parallel(images), labels.to(self.here.device), varied) / every
                self.scaler.scale(part).backward()
            loss += part.detach()
            if last:
                self._move()
        mean = ranks.total(loss) / (self.here.size * self.steps)  # the exchange also waits for the slowest rank
        seconds = time.perf_counter() - began
        return mean, self.steps * every * self.asked.batch * self.here.size / seconds

    def _move(self) -> None:
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        # A scaler skips the step whose gradients overflowed; then the schedule must not go on alone.
        if self.scaler.get_scale() >= scale:
            self.schedule.step()

    def _perhaps_die(self, epoch: int, step: int) -> None:
        """To see what happens then: `DDP_DIE=1:2` kills rank 1 in the middle of epoch 2, the first time."""
        wanted = os.environ.get("DDP_DIE") == f"{self.here.rank}:{epoch + 1}"
        if wanted and step == len(self.loader) // 2 and launch.restarts() == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self) -> dict[str, Any]:
        """Train to the end and judge; what came of it."""
        self.resume()
        for number in range(len(self.losses), self.asked.epochs):
            with self.precision.matrices():
                loss, rate = self.epoch(number)
            self.losses.append(loss)
            self.rates.append(rate)
            self.save()
            if self.here.first:
                print(f"epoch {number + 1} of {self.asked.epochs}: loss {loss:.4f}, {rate:.0f} images per second", flush=True)
        count, equal = parameters(self.network), ranks.same_weights(self.network)
        return {
            "identity": self.checkpoint.identity, "ranks": self.here.size, "device": self.here.device.type,
            "threads": torch.get_num_threads(), "batch_per_step": self.asked.batch * self.asked.accumulate * self.here.size,
            # The best epoch: what disturbs one, such as other work on the machine, only slows it.
            "losses": self.losses, "images_per_second": max(self.rates),
            "equal": equal, "restarts": launch.restarts(), "parameters": count,
            "all_reduce_seconds": ranks.all_reduce_seconds(self.here, count),
        }  # fmt: skip

    def finish(self, result: dict[str, Any]) -> None:
        """Judge and write; the first rank's work."""
        scores, _ = train.scores(self.network, self.parts.validation, self.here.device)
        result["validation_auroc"] = metrics.auroc(self.parts.validation.labels, scores)
        weights = io.BytesIO()
        torch.save(self.network.state_dict(), weights)
        files.replace(self.asked.out / "network.pt", weights.getvalue())
        files.replace(self.asked.out / "result.json", f"{json.dumps(result, indent=2)}\n".encode())
        self.checkpoint.remove()


def steps_of(asked: argparse.Namespace, images: int, size: int) -> int:
    """Steps of the optimizer in an epoch.

    Raises:
        Refused: there is not one.
    """
    found = images // size // asked.batch // asked.accumulate
    if not found:
        needed = size * asked.batch * asked.accumulate
        raise Refused(f"One step takes {needed} images, and there are {images}: choose a smaller --batch or --accumulate.")
    return found


def identity_of(asked: argparse.Namespace, parts: data.Split, size: int) -> str:
    """What tells this training from others."""
    told = {name: getattr(asked, name) for name in IDENTITY}
    return json.dumps({**told, "data": parts.train.digest, "ranks": size}, sort_keys=True)


def done_before(asked: argparse.Namespace, identity: str) -> bool:
    """Whether this very training is done already.

    Raises:
        Refused: the folder has the result of another.
    """
    try:
        found = json.loads((asked.out / "result.json").read_text())
    except FileNotFoundError:
        return False
    if found.get("identity") != identity:
        raise Refused(f"{asked.out} has the result of another training: name another --out, or remove it.")
    return True


def work(asked: argparse.Namespace) -> None:
    """All that a rank does."""
    images = data.load(asked.data, size=asked.size, progress=False)
    parts = data.split(images, seed=asked.seed)
    if asked.limit:
        parts = data.Split(parts.train.take(range(min(asked.limit, len(parts.train)))), parts.validation, parts.test)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    steps_of(asked, len(parts.train), size)
    if done_before(asked, identity_of(asked, parts, size)):
        if launch.is_first():
            print(f"{asked.out} has the result of this training already", flush=True)
        return
    try:
        if launch.is_first():
            asked.out.mkdir(parents=True, exist_ok=True)
        with ranks.world(asked.threads) as here:
            trainer = Trainer(asked, here, parts)
            result = trainer.run()
            if here.first:
                trainer.finish(result)
    except OSError as error:
        raise Refused(files.sentence(error, asked.out, "the training", "name another --out")) from error


def main() -> int:
    """Train; 0 done, 1 refused with one sentence, 2 not understood."""
    asked = _parser().parse_args()
    try:
        if "RANK" not in os.environ:
            raise Refused("torchrun starts this: `torchrun --standalone --nproc_per_node=2 ddp.py …`.")
        cuda = torch.cuda.is_available()
        if asked.sync_batchnorm and not cuda:
            raise Refused("PyTorch has SyncBatchNorm for GPUs alone, and there is none: leave --sync-batchnorm out.")
        if cuda and int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
            raise Refused(f"Each rank needs a GPU of its own: --nproc_per_node={torch.cuda.device_count()} at most.")
        if not supported(asked.precision, "cuda" if cuda else "cpu"):
            raise Refused(f"This device does not compute in {asked.precision}: choose another --precision.")
        work(asked)
    except (Refused, DataError, CheckpointError, backbone.WeightsError) as error:
        # Most of them all ranks have in common; a disk, only the one that wrote to it.
        if launch.is_first() or isinstance(error.__cause__, OSError):
            print(f"ddp: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = words.Parser(
        prog="ddp.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, network and result")
    parser.add_argument("--size", type=words.whole(16), default=96, help="side of an image in pixels (default: 96)")
    parser.add_argument("--epochs", type=words.whole(1), default=8, help="how often every image is seen (default: 8)")
    parser.add_argument("--batch", type=words.whole(2), default=32, help="images per rank and pass (default: 32)")
    parser.add_argument("--accumulate", type=words.whole(1), default=1, help="passes per step of the optimizer (default: 1)")
    parser.add_argument(
        "--rate", type=words.share, default=3e-3, help="highest learning rate of one rank's batch (default: 0.003)"
    )
    parser.add_argument("--precision", default="fp32", choices=NAMES, help="numbers to compute in (default: fp32)")
    parser.add_argument("--workers", type=words.whole(0), default=0, help="data loader processes per rank (default: none)")
    parser.add_argument("--threads", type=words.whole(0), default=0, help="CPU threads per rank (default: its share of the CPUs)")
    parser.add_argument("--seed", type=words.whole(0), default=0, help="start of all random numbers (default: 0)")
    parser.add_argument("--limit", type=words.whole(0), default=0, help="train on so many images only (default: on all)")
    parser.add_argument("--sync-batchnorm", action="store_true", help="normalise over all ranks' images (GPUs only)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
