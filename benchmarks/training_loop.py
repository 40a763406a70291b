"""Images a second of senet's training loop, of a bare PyTorch loop, and of a loop made of timm's parts, in turn.

    python benchmarks/training_loop.py FOLDER [--model timm:mobilenetv2_100] [--size 128] [--batch-size 32]

All train one network on one folder of class folders, with the same batch size, optimiser and schedule. The bare loop
has senet's own loader. timm's train.py is not in its package: its loop here is made of the parts that the script is
made of (create_dataset, create_loader, create_optimizer_v2, its loss and scheduler), without its logging.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import lightning.pytorch as L
import torch
from torch.nn import functional as F

from senet.console.progress import Progress
from senet.evaluation.networks import NetworkSpec, make
from senet.insertion import parameter_groups
from senet.study import open_data
from senet.training.loop import quiet
from senet.training.processes.processes import Processes, device_layout
from senet.training.schedules import learning_rate_factor
from senet.training.setup import PreparedImages
from senet.training.train import setup_of, train

WARM = 3  # steps that are not timed


class Enough(Exception):  # noqa: N818
    pass


class Clock(L.Callback):
    def __init__(self, steps):
        self.steps, self.times = steps, []

    def on_train_batch_end(self, *_):
        self.times.append(time.perf_counter())
        if len(self.times) == self.steps:
            raise Enough


def rate(times, batch):
    return batch * (len(times) - WARM) / (times[-1] - times[WARM - 1])


def ours(given, source, *_):
    clock = Clock(given.steps)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        how = {"size": given.size, "batch_size": given.batch_size, "epochs": 2, "lr": 0.01, "workers": given.workers}
        train(given.model, source, out=Path(folder) / "run", progress=False, devices="cpu", callbacks=[clock], **how)
    return rate(clock.times, given.batch_size)


def bare(given, _, setup, prepared):
    network = make(NetworkSpec(given.model), num_classes=setup.num_classes, size=given.size, seed=0).network
    network.to(memory_format=torch.channels_last)
    groups = parameter_groups(network, 0.01, weight_decay=setup.recipe.weight_decay)
    optimiser = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, setup.steps, setup.recipe)
    )
    times = []
    with quiet():
        for pixels, labels in prepared.train_batches(0, 0):
            loss = F.cross_entropy(network(setup.preprocessing.normalise(pixels)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            times.append(time.perf_counter())
            if len(times) == given.steps:
                break
    return rate(times, given.batch_size)


def timms(given, _, setup, *__):
    import timm
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    network = timm.create_model(given.model.removeprefix("timm:"), num_classes=setup.num_classes).train()
    network.to(memory_format=torch.channels_last)
    data = create_dataset("", root=given.folder, split="train", is_training=True, batch_size=given.batch_size)
    loader = create_loader(
        data,
        (3, given.size, given.size),
        given.batch_size,
        is_training=True,
        use_prefetcher=False,
        num_workers=2 if given.workers is None else given.workers,
        scale=(0.35, 1.0),
        color_jitter=0.0,
        device=torch.device("cpu"),
    )
    optimiser = create_optimizer_v2(network, opt="sgd", lr=0.01, momentum=0.9, weight_decay=setup.recipe.weight_decay)
    schedule = CosineLRScheduler(optimiser, setup.steps, t_in_epochs=False)
    loss_of, times = torch.nn.CrossEntropyLoss(), []
    with quiet():
        for step, (pixels, labels) in enumerate(loader):
            loss = loss_of(network(pixels.contiguous(memory_format=torch.channels_last)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step_update(step)
            times.append(time.perf_counter())
            if len(times) == given.steps:
                break
    return rate(times, given.batch_size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--model", default="timm:mobilenetv2_100")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    source = open_data(given.folder)
    options = {"size": given.size, "batch_size": given.batch_size, "epochs": 2, "lr": 0.01, "workers": given.workers}
    one, own = device_layout("cpu"), NetworkSpec(given.model)
    setup, _ = setup_of(own, source, options, one, Processes(), Progress(False), given.folder, seed=0)
    prepared = PreparedImages(setup)
    found = {loop.__name__: [] for loop in (ours, bare, timms)}
    for _ in range(given.rounds):
        for loop in (ours, bare, timms):
            if loop is timms and not given.model.startswith("timm:"):
                continue
            found[loop.__name__].append(loop(given, source, setup, prepared))
    print(
        f"images a second, {given.model} at {given.size}, batch {given.batch_size}, {given.steps - WARM} steps a round"
    )
    for name, rates in found.items():
        if rates:
            each = " ".join(f"{one:.1f}" for one in rates)
            print(f"{name:6} {statistics.median(rates):7.1f}  ({each})")
    print(f"ours / bare: {statistics.median(found['ours']) / statistics.median(found['bare']):.3f}")
    if found["timms"]:
        print(f"ours / timm: {statistics.median(found['ours']) / statistics.median(found['timms']):.3f}")


if __name__ == "__main__":
    main()
