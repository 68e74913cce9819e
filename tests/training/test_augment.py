"""Augmentation against images moved one by one; the same draws from the same seed; what is no image is refused."""

import pytest
import torch

from rarefy.errors import UsageError
from rarefy.training.augment import AUGMENTATIONS, augmentation, mirrored, shifted

X = torch.rand(40, 2, 6, 5) + 1


def moved(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The image (c, h, w) moved by loops."""
    out, (_, height, width) = torch.zeros_like(image), image.shape
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                out[:, i, j] = image[:, i - down, j - right]
    return out


def test_every_image_is_moved_by_itself_and_every_way_occurs() -> None:
    torch.manual_seed(0)
    ways = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    seen = set()
    for image, made in zip(X, shifted(X, by=1), strict=True):
        found = [way for way in ways if torch.equal(made, moved(image, *way))]
        assert len(found) == 1
        seen.add(found[0])
    assert seen == set(ways)


def test_about_half_is_mirrored() -> None:
    torch.manual_seed(0)
    turned = [torch.equal(made, image.flip(-1)) for image, made in zip(X, mirrored(X), strict=True)]
    kept = [torch.equal(made, image) for image, made in zip(X, mirrored(X), strict=True)]
    assert 10 <= sum(turned) <= 30 and 10 <= sum(kept) <= 30


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_follow_the_seed(name: str) -> None:
    augment = augmentation(name)
    torch.manual_seed(3)
    first, second = augment(X), augment(X)
    torch.manual_seed(3)
    assert torch.equal(augment(X), first) and first.shape == X.shape
    assert torch.equal(first, second) == (name == "none")


def test_vectors_are_no_images() -> None:
    with pytest.raises(UsageError, match=r"only images.*\(20,\).*leave out augment"):
        augmentation("shift")(torch.zeros(3, 20))
