"""Training batches as a function of seed, epoch and index."""

import numpy as np
import pytest

from tfcompress.datasets import Split
from tfcompress.recipe.batches import TrainingBatches


@pytest.fixture
def split():
    x = np.arange(10 * 6 * 5 * 2, dtype=np.float32).reshape(10, 6, 5, 2) + 1
    return Split(x, np.arange(10))


def epoch_of(batches):
    return [batches[i] for i in range(len(batches))]


def test_every_sample_comes_once_an_epoch_in_a_new_order(split):
    batches = TrainingBatches(split, batch_size=4, seed=1)
    assert len(batches) == 3
    first = np.concatenate([y for _, y in epoch_of(batches)])
    for x, y in epoch_of(batches):
        np.testing.assert_array_equal(x, split.x[y])
    batches.on_epoch_end()
    second = np.concatenate([y for _, y in epoch_of(batches)])
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_resuming_at_an_epoch_gives_the_batches_of_that_epoch(split):
    options = {"batch_size": 4, "seed": 7, "augmentation": ["flip", "crop"]}
    whole = TrainingBatches(split, **options)
    whole.on_epoch_end()
    whole.on_epoch_end()
    resumed = TrainingBatches(split, epoch=2, **options)
    for (x, y), (x2, y2) in zip(epoch_of(whole), epoch_of(resumed)):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


def test_flip_mirrors_some_images_and_leaves_the_others(split):
    x, y = TrainingBatches(split, batch_size=10, seed=1, augmentation=["flip"])[0]
    plain, mirrored = split.x[y], split.x[y][:, :, ::-1]
    is_plain = (x == plain).all(axis=(1, 2, 3))
    is_mirrored = (x == mirrored).all(axis=(1, 2, 3))
    assert (is_plain | is_mirrored).all()
    assert 0 < is_mirrored.sum() < 10


def test_crop_shifts_by_at_most_four_pixels_and_fills_with_zeros(split):
    x, y = TrainingBatches(split, batch_size=10, seed=1, augmentation=["crop"])[0]
    assert x.shape == (10, 6, 5, 2)
    for image, label in zip(x, y):
        shifts = [
            (dy, dx)
            for dy in range(-4, 5)
            for dx in range(-4, 5)
            if np.array_equal(image, shifted(split.x[label], dy, dx))
        ]
        assert shifts, f"image {label} is no shift of itself"


def shifted(image, dy, dx):
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    return padded[4 + dy : 4 + dy + image.shape[0], 4 + dx : 4 + dx + image.shape[1]]


def test_several_inputs_are_batched_together():
    x = {"a": np.arange(6), "b": np.arange(6) * 10}
    batch, y = TrainingBatches(Split(x, np.arange(6)), batch_size=4, seed=0)[0]
    np.testing.assert_array_equal(batch["a"], y)
    np.testing.assert_array_equal(batch["b"], y * 10)


def test_augmentation_of_what_is_no_image():
    split = Split(np.zeros((4, 3)), np.zeros(4))
    with pytest.raises(ValueError, match=r"needs images of shape .* Received: \(4, 3\)"):
        TrainingBatches(split, batch_size=2, seed=0, augmentation=["flip"])
