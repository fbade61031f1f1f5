"""The classifier of these worlds: four convolutions with batch normalisation, trained in seconds on one thread."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import InputError
from efface._progress import progress
from efface._validate import check_positive_int
from efface.training.loop import Trainer
from efface_worlds.attribution.world import SIZE, Pictures, PictureWorld

WIDTHS = (16, 32, 48, 64)
_BATCH, _RATE = 64, 4e-3


class SmallConvNet(nn.Module):
    """Images `(n, 3, 32, 32)` in [0, 1] -> logits `(n, classes)`; about 47,000 parameters.

    Four times convolution, batch normalisation, ReLU, with maxima over 2 x 2 after the first and the third, then the
    maximum over places and one linear layer. Each ReLU and each pooling is a module of its own, so that methods that
    hook into modules see all of them.

    Attributes:
        features: Layers up to 8 x 8 maps of 64 channels.
        pool: Maximum over places.
        head: The linear layer.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place, (inner, outer) in enumerate(zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)):
            layers += [nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if place in (0, 2) else []
        self.features = nn.Sequential(*layers)
        self.pool = nn.MaxPool2d(SIZE // 4)
        self.head = nn.Linear(WIDTHS[-1], classes)

    def penultimate(self, images: Tensor) -> Tensor:
        """What the linear layer reads, `(n, 64)`."""
        return self.pool(self.features(images)).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, classes)`."""
        return self.head(self.penultimate(images))


def make_classifier(classes: int, seed: int) -> SmallConvNet:
    """An untrained network; the caller's random state is left as it was."""
    check_positive_int(classes, "classes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallConvNet(classes)


def fit_classifier(model: nn.Module, images: Tensor, labels: Tensor, *, seed: int, epochs: int = 6) -> nn.Module:
    """Train a model by cross entropy, in place, and leave it in eval mode.

    Adam with one cycle of the learning rate up to 4e-3, batches of 64, cross entropy.

    Args:
        model: Images to logits.
        images: `(n, 3, 32, 32)`.
        labels: `(n,)` int64.
        seed: Seed of the order of images.
        epochs: Passes over the images.

    Returns:
        The same model.
    """
    check_positive_int(epochs, "epochs")
    if len(images) != len(labels) or not len(labels):
        raise InputError(
            f"{len(images)} images and {len(labels)} labels: expected one label an image, and at least one"
        )
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(labels) // _BATCH)
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    trainer = Trainer(model.train(), optimiser, name="the classifier")
    with progress("training", epochs * len(labels), unit="images") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(labels), generator=generator).split(_BATCH):
                trainer.descend(F.cross_entropy(model(images[rows]), labels[rows]))
                schedule.step()
                bar.update(len(rows))
    return model.eval()


def train_classifier(world: PictureWorld, seed: int, *, epochs: int = 6) -> SmallConvNet:
    """The world's classifier, trained on `world.train`: same world and seed, same weights (on one machine).

    Does not guarantee: the same bits on another processor or with another number of threads.
    """
    model = make_classifier(len(world.classes), seed)
    fit_classifier(model, world.train.images, world.train.labels, seed=seed, epochs=epochs)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, pictures: Pictures, *, batch_size: int = 256) -> float:
    """Share of images whose likeliest class is their label."""
    hits = [
        model(images).argmax(1) == labels
        for images, labels in zip(pictures.images.split(batch_size), pictures.labels.split(batch_size), strict=True)
    ]
    return float(torch.cat(hits).float().mean())
