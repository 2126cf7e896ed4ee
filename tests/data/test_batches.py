"""Mini-batches: each example once, the same ones on every resume, from memory and from files."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_sets
import torch
from PIL import Image
from pretended_gpu import PretendedGPU

from fsbench.config.augment import StandardAugment
from fsbench.config.dataset import Digits, Folder
from fsbench.data import (
    EvalBatches,
    MemorySplit,
    TrainBatches,
    eval_batches,
    load_data,
    overlap,
    streaming,
    train_batches,
)
from fsbench.data.augment import batch_augment, normalize
from fsbench.data.augment.batch import _moments
from fsbench.data.batches import resized
from fsbench.data.streaming import _Decoded
from fsbench.errors import FsbenchError, UsageError

CPU = torch.device("cpu")
NONE = StandardAugment()
RANDOM = StandardAugment(flip=True, crop=2, cutout=3)


def numbered(n: int) -> MemorySplit:
    """Image i is filled with i; its label is i too."""
    return MemorySplit(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 4, 4).clone(), torch.arange(n))


def plain(images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return images.float()


def noisy(images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return images + torch.rand(images.shape, generator=draw)


def batches_of(n: int, batch_size: int, augment=plain, seed: int = 0) -> TrainBatches:
    return TrainBatches(numbered(n), augment, batch_size, seed, CPU)


@pytest.fixture
def insects(tmp_path):
    tiny_sets.write_folder(tmp_path)

    def load(**options):
        return load_data(Folder(root=str(tmp_path), mean=[0.5] * 3, std=[0.25] * 3, **options), tmp_path)

    return load


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (12, 4, [4, 4, 4]),
        (14, 4, [4, 4, 4, 2]),
        (13, 4, [4, 4, 4]),
        (4, 4, [4]),
        (3, 2, [2]),
        (3, 1, [1, 1, 1]),
        (1, 1, [1]),
    ],
    ids=lambda value: str(value),
)
def test_steps_of_an_epoch(n, batch_size, sizes):
    batches = batches_of(n, batch_size)
    epoch = list(batches.epoch(0))
    assert [len(y) for _, y in epoch] == sizes
    assert len(batches) == len(sizes)
    seen = torch.cat([y for _, y in epoch])
    assert len(seen.unique()) == len(seen) == sum(sizes)
    for x, y in epoch:
        assert x.dtype == torch.float32
        assert torch.equal(x, y.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).float())


def test_the_example_left_out_changes_from_epoch_to_epoch():
    batches = batches_of(5, 4)
    left = {10 - int(sum(y.sum() for _, y in batches.epoch(epoch))) for epoch in range(40)}
    assert left == {0, 1, 2, 3, 4}


def order(batches: TrainBatches, epoch: int) -> list[int]:
    return torch.cat([y for _, y in batches.epoch(epoch)]).tolist()


def test_the_order_depends_on_seed_and_epoch():
    first = order(batches_of(50, 10), 0)
    assert first != sorted(first)
    assert first == order(batches_of(50, 10), 0) == order(batches_of(50, 9), 0)
    assert first != order(batches_of(50, 10), 1)
    assert first != order(batches_of(50, 10, seed=1), 0)


def test_every_position_is_as_likely():
    places = torch.tensor([order(batches_of(10, 5), epoch).index(3) for epoch in range(2000)]).bincount(minlength=10)
    assert float(((places - 200.0) ** 2 / 200).sum()) < 9 + 5 * 18**0.5


def same(left, right) -> bool:
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("start", [0, 1, 3, 6, 7])
def test_entering_at_a_step_is_bit_identical(start):
    whole = list(batches_of(50, 8, noisy).epoch(3))
    assert same(batches_of(50, 8, noisy).epoch(3, start=start), whole[start:])


@pytest.mark.parametrize("start", [-1, 8])
def test_steps_that_do_not_exist(start):
    with pytest.raises(ValueError, match=f"an epoch has 7 steps, it cannot be entered at step {start}"):
        batches_of(50, 8).epoch(0, start)


def test_augmentation_differs_between_steps_epochs_and_seeds():
    def draw(images, generator):
        return torch.rand(images.shape, generator=generator)

    found = [
        x for seed in (0, 1) for epoch in (0, 1) for x, _ in TrainBatches(numbered(8), draw, 4, seed, CPU).epoch(epoch)
    ]
    assert len({x.numpy().tobytes() for x in found}) == len(found) == 8


def test_global_random_state_neither_matters_nor_moves(insects):
    for data in (insects(), insects(in_memory=False, image_size=12)):
        batches = train_batches(data, RANDOM, 8, 0, CPU, workers=0)
        torch.manual_seed(1)
        first, state = list(batches.epoch(0)), torch.get_rng_state()
        torch.manual_seed(2)
        assert same(batches.epoch(0), first)
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("split", ["memory", "streamed"])
def test_batch_larger_than_the_data(insects, split):
    data = insects(**({} if split == "memory" else {"in_memory": False, "image_size": 12}))
    with pytest.raises(UsageError) as caught:
        train_batches(data, NONE, 31, 0, CPU, 0)
    assert str(caught.value) == "trainer.batch_size=31: must be at most the 30 training images"


def test_streamed_equals_in_memory_without_augmentation(insects):
    memory, files = insects(), insects(in_memory=False, image_size=12)
    for one, other in (
        (train_batches(memory, NONE, 8, 3, CPU, 0).epoch(2), train_batches(files, NONE, 8, 3, CPU, 0).epoch(2)),
        (eval_batches(memory.test, memory, NONE, CPU, 0), eval_batches(files.test, files, NONE, CPU, 0)),
    ):
        for (x, y), (u, v) in zip(one, other, strict=True):
            assert torch.equal(y, v)
            torch.testing.assert_close(x, u, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [7, 12, 30])
def test_both_paths_resize_alike(insects, side):
    memory, files = insects(), insects(in_memory=False, image_size=side)
    one = EvalBatches(memory.test, lambda x: normalize(resized(x, side), memory.mean, memory.std), 1000, CPU)
    for (x, _), (u, _) in zip(one, eval_batches(files.test, files, NONE, CPU, 0), strict=True):
        assert x.shape == u.shape == (12, 3, side, side)
        levels = (x - u) * 255 * 0.25
        assert float(levels.abs().max()) < 2.01
        # ties of the fixed-point weights that PIL computes with
        assert float(levels.abs().mean()) < 0.1
        assert abs(float(levels.mean())) < 0.04


@pytest.mark.parametrize(("shape", "side"), [((9, 5), 16), ((28, 28), 32), ((40, 31), 12)], ids=str)
def test_resize_is_pils_bilinear(shape, side):
    array = tiny_sets.pixels(*shape)
    expected = np.asarray(Image.fromarray(array).resize((side, side), Image.Resampling.BILINEAR)).astype(int)
    found = resized(torch.from_numpy(array)[None, None], side)
    assert found.dtype == torch.uint8
    difference = np.abs(found[0, 0].numpy() - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_in_memory_images_are_resized_for_training_and_evaluation(tmp_path):
    data = load_data(Digits(image_size=32), tmp_path)
    x, _ = next(train_batches(data, RANDOM, 16, 0, CPU, 0).epoch(0))
    assert x.shape == (16, *data.shape)
    x, _ = next(iter(eval_batches(data.test, data, RANDOM, CPU, 0)))
    assert x.shape[1:] == data.shape


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(insects, workers):
    data = insects(in_memory=False, image_size=12)
    alone = train_batches(data, RANDOM, 7, 0, CPU, workers=0)
    helped = train_batches(data, RANDOM, 7, 0, CPU, workers=workers)
    for epoch in (0, 1):
        assert same(alone.epoch(epoch), helped.epoch(epoch))
    assert not same(alone.epoch(0), alone.epoch(1))
    assert same(helped.epoch(1, start=2), list(alone.epoch(1))[2:])
    # an epoch that is left early does not leak into the next
    next(helped.epoch(0))
    assert same(helped.epoch(1), alone.epoch(1))


def test_streamed_augmentation_belongs_to_the_image_not_the_batch(insects):
    data = insects(in_memory=False, image_size=12)

    def by_image(batch_size=10, seed=0, epoch=0):
        batches = TrainBatches(data.train, random_pixel, batch_size, seed, CPU, workers=0)
        return {x.item() for xs, _ in batches.epoch(epoch) for x in xs}

    assert len(by_image()) == 30
    assert by_image() == by_image(batch_size=3)
    assert not by_image() & by_image(epoch=1)
    assert not by_image() & by_image(seed=1)


def random_pixel(image: Image.Image) -> torch.Tensor:
    return torch.rand(1)


def test_spawned_workers_can_have_the_data(insects):
    from fsbench.data.augment import image_transform

    data = insects(in_memory=False, image_size=12)
    items = _Decoded(data.train, image_transform(RANDOM, data.mean, data.std, 12), 0)
    pickler = multiprocessing.reduction.ForkingPickler
    again = pickle.loads(pickler.dumps(items))
    assert torch.equal(again[(0, 5)][0], items[(0, 5)][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_streamed_image_is_named(insects, workers):
    data = insects(in_memory=False, image_size=12)
    path = Path(data.train.base) / "train/bee/05.png"
    path.write_bytes(path.read_bytes()[:150])
    message = ""
    try:  # not pytest.raises, which keeps the frames, and with them the workers, until they are collected
        list(train_batches(data, NONE, 8, 0, CPU, workers).epoch(0))
    except UsageError as failure:
        message = str(failure)
    assert message.startswith(f"dataset.root={data.train.base}: {path} cannot be decoded (")


def test_little_shared_memory_is_refused_before_it_hangs(insects, monkeypatch):
    data = insects(in_memory=False, image_size=12)
    image = 3 * 12 * 12 * 4
    for free, workers in (((2 * 2 + 2) * 8 * image, 2), (0, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        train_batches(data, NONE, 8, 0, CPU, workers)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**19))
    for make in (
        lambda: train_batches(data, NONE, 30, 0, CPU, 100),
        lambda: EvalBatches(data.train, to_floats, 1000, CPU, workers=100),
    ):
        with pytest.raises(UsageError) as caught:
            make()
        assert str(caught.value) == (
            "workers=100: their batches take 10 MiB of shared memory, /dev/shm has 0; have fewer (0 needs none), "
            "or give the container more"
        )


def test_workers_that_deliver_nothing_are_not_waited_for(insects, monkeypatch):
    monkeypatch.setattr(streaming, "_PATIENCE", 1)
    data = insects(in_memory=False, image_size=12)
    message = ""
    try:
        list(TrainBatches(data.train, Slow(os.getpid()), 30, 0, CPU, workers=1).epoch(0))
    except FsbenchError as failure:
        message = str(failure)
    assert message == "no images came from the 1 loader workers for 1 s; workers=0 does without them"


class Slow:
    def __init__(self, here: int) -> None:
        self.here = here

    def __call__(self, image: Image.Image) -> torch.Tensor:
        if os.getpid() != self.here:
            time.sleep(0.08)
        return torch.zeros(1)


@pytest.mark.parametrize("kind", ["memory", "streamed"])
@pytest.mark.parametrize("batch_size", [1, 5, 11, 12, 1000])
def test_evaluation_sees_everything_in_order_again_and_again(insects, kind, batch_size):
    data = insects(**({} if kind == "memory" else {"in_memory": False, "image_size": 12}))
    prepare = to_floats if kind == "streamed" else lambda images: normalize(images, data.mean, data.std)
    batches = EvalBatches(data.test, prepare, batch_size, CPU)
    for _ in range(2):
        found = list(batches)
        assert len(found) == len(batches) == -(-12 // batch_size)
        assert torch.cat([y for _, y in found]).tolist() == data.test.labels.tolist()
        assert sum(len(x) for x, _ in found) == 12


def to_floats(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1)


def test_evaluation_normalises_exactly(tmp_path):
    data = load_data(Digits(mean=[0.3], std=[0.2]), tmp_path)
    x = torch.cat([x for x, _ in eval_batches(data.test, data, RANDOM, CPU, 0)])
    expected = (data.test.images.double() / 255 - 0.3) / 0.2
    torch.testing.assert_close(x, expected.float(), rtol=0, atol=2e-6)


def test_noise_is_what_is_trained_on(tmp_path):
    data = load_data(Digits(noise=0.5), tmp_path)
    batches = train_batches(data, NONE, 1437, 0, CPU, 0)
    ((_, y),) = batches.epoch(0)
    assert torch.equal(y.bincount(), data.train.labels.bincount())


@pytest.mark.parametrize("image_size", [None, 40])
def test_a_step_has_its_batch_without_the_host_waiting_for_the_gpu(monkeypatch, image_size):
    monkeypatch.setattr("fsbench.data.batches.one_ahead", lambda batches, device: batches)
    images = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    augment = batch_augment(StandardAugment(flip=True, crop=2, cutout=3), [0.5] * 3, [0.25] * 3)
    with PretendedGPU() as gpu:
        split, cuda = MemorySplit(images, torch.zeros(50, dtype=torch.int64)), torch.device("cuda")
        batches = TrainBatches(split, augment, 16, 0, cuda, image_size=image_size)
        list(batches.epoch(0))
        gpu.looks.clear()
        shapes = [(x.device.type, *x.shape, *y.shape) for x, y in batches.epoch(1)]
    _moments.cache_clear()
    side = image_size or 32
    assert shapes == [("cuda", size, 3, side, side, size) for size in (16, 16, 16, 2)]
    assert gpu.looks == []


def test_a_batch_is_made_before_the_one_ahead_of_it_is_used(monkeypatch):
    """What is asked of CUDA, in order."""
    said: list[str] = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    class Part:
        def __init__(self, name):
            self.name = name

        def record_stream(self, stream):
            said.append(f"{self.name} lent to {stream.name}")

    now = [Stream("steps")]

    @contextmanager
    def within(stream):
        now.append(stream)
        yield
        now.pop()

    def made():
        for number in range(3):
            said.append(f"{number} made on {now[-1].name}")
            yield Part(f"x{number}"), Part(f"y{number}")

    monkeypatch.setattr(overlap, "_stream", lambda device: Stream("own"))
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now[-1])
    for x, _ in overlap.one_ahead(made(), torch.device("cuda", 0)):
        said.append(f"{x.name} used")
    assert said == [
        "own waits for steps", "0 made on own",
        "steps waits for own", "x0 lent to steps", "y0 lent to steps", "1 made on own", "x0 used",
        "steps waits for own", "x1 lent to steps", "y1 lent to steps", "2 made on own", "x1 used",
        "steps waits for own", "x2 lent to steps", "y2 lent to steps", "x2 used",
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["memory", "streamed"])
def test_batches_of_a_gpu_are_those_of_the_cpu_while_it_is_busy(insects, kind):
    data = insects(**({} if kind == "memory" else {"in_memory": False, "image_size": 12}))
    one, other = (train_batches(data, RANDOM, 8, 0, torch.device(where), 2) for where in ("cpu", "cuda"))
    busy = torch.zeros(4000, 4000, device="cuda")
    for epoch in (0, 1):
        kept = []
        for x, y in other.epoch(epoch, start=epoch):
            for _ in range(20):
                busy @= busy
            kept.append((x + busy[0, 0], y.clone()))  # read late, when the memory of x has been asked for again
            del x, y
        for (x, y), (u, v) in zip(one.epoch(epoch, start=epoch), kept, strict=True):
            torch.testing.assert_close(u.cpu(), x, rtol=0, atol=1e-6)
            assert torch.equal(v.cpu(), y)
