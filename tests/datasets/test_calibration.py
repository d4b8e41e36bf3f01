from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress.datasets.calibration import calibration_samples

ONE = [("image", (4, 4, 1), "float32")]
TWO = [("numbers", (3,), "float32"), ("ids", (5,), "int32")]
IMAGES = np.arange(20 * 16, dtype=np.float32).reshape(20, 4, 4, 1)
NUMBERS = np.arange(30, dtype=np.float64).reshape(10, 3)
IDS = np.arange(50).reshape(10, 5)


def one(data, **settings) -> np.ndarray:
    samples = calibration_samples(data, ONE, **settings)
    assert list(samples) == ["image"]
    return samples["image"]


@pytest.mark.parametrize(
    "data",
    [
        IMAGES,
        IMAGES.astype(np.float64),
        {"image": IMAGES},
        (IMAGES, np.zeros(20)),
        (IMAGES,),
        [IMAGES],
        list(IMAGES),
        [IMAGES[:7], IMAGES[7:]],
        [(IMAGES[:7], np.zeros(7)), (IMAGES[7:], np.zeros(13))],
        [[IMAGES[:7]], [IMAGES[7:]]],
        lambda: ([sample[None]] for sample in IMAGES),
        lambda: ({"image": sample} for sample in IMAGES),
    ],
    ids=range(12),
)
def test_every_form_gives_the_same_samples(data):
    seen = one(data)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen, IMAGES)


def test_generators_and_infinite_iterables_stop_at_the_limit():
    def forever():
        while True:
            yield IMAGES[:3], np.zeros(3)

    assert one(forever(), limit=10).shape == (10, 4, 4, 1)


def test_arrays_are_thinned_out_evenly():
    np.testing.assert_array_equal(one(IMAGES, limit=5)[:, 0, 0, 0] / 16, [0, 5, 10, 14, 19])
    assert one(IMAGES, limit=None).shape == IMAGES.shape


def test_a_single_sample_gets_a_batch():
    assert one(IMAGES[0]).shape == (1, 4, 4, 1)


def test_tf_data(tmp_path: Path):
    import tensorflow as tf

    labels = np.arange(20)
    pairs = tf.data.Dataset.from_tensor_slices((IMAGES, labels))
    for dataset in (
        pairs,
        pairs.batch(8),
        pairs.batch(8).map(lambda x, y: x),
        pairs.batch(8).map(lambda x, y: ({"image": x}, y)),
        pairs.batch(8).map(lambda x, y: (x, y, y)),
    ):
        np.testing.assert_array_equal(one(dataset), IMAGES)
    np.testing.assert_array_equal(one(tf.constant(IMAGES)), IMAGES)


def test_keras_dataset():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return IMAGES[5 * index : 5 * index + 5], np.zeros(5)

    np.testing.assert_array_equal(one(Batches()), IMAGES)


@pytest.mark.parametrize(
    "data",
    [
        {"ids": IDS, "numbers": NUMBERS},
        [NUMBERS, IDS],
        (NUMBERS, IDS),
        ((NUMBERS, IDS), np.zeros(10)),
        ([NUMBERS, IDS], np.zeros(10)),
        [({"numbers": NUMBERS[i : i + 5], "ids": IDS[i : i + 5]}, 0) for i in (0, 5)],
        [(n, i) for n, i in zip(NUMBERS, IDS)],
    ],
    ids=range(7),
)
def test_several_inputs(data):
    samples = calibration_samples(data, TWO)
    assert list(samples) == ["numbers", "ids"]
    assert samples["numbers"].dtype == np.float32
    assert samples["ids"].dtype == np.int32
    np.testing.assert_array_equal(samples["numbers"], NUMBERS)
    np.testing.assert_array_equal(samples["ids"], IDS)


def test_files(tmp_path: Path):
    np.save(tmp_path / "x.npy", IMAGES)
    np.testing.assert_array_equal(one(tmp_path / "x.npy"), IMAGES)
    np.savez(tmp_path / "any.npz", anything=IMAGES)
    np.testing.assert_array_equal(one(str(tmp_path / "any.npz")), IMAGES)
    np.savez(tmp_path / "xy.npz", x=IMAGES, y=np.zeros(20))
    np.testing.assert_array_equal(one(tmp_path / "xy.npz"), IMAGES)
    np.savez(tmp_path / "two.npz", ids=IDS, numbers=NUMBERS, y=np.zeros(10))
    np.testing.assert_array_equal(calibration_samples(tmp_path / "two.npz", TWO)["ids"], IDS)
    with pytest.raises(ValueError, match=r"named like the inputs.*\['x', 'y'\]"):
        calibration_samples(tmp_path / "xy.npz", TWO)
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        one(tmp_path / "nothing.npz")
    (tmp_path / "x.csv").touch()
    with pytest.raises(ValueError, match=r"`\.npy` or `\.npz`"):
        one(tmp_path / "x.csv")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read"):
        one(tmp_path / "broken.npz")
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object))
    with pytest.raises(ValueError, match="plain arrays"):
        one(tmp_path / "objects.npy")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty list"),
        (iter([]), "ended at once"),
        (IMAGES[:0], "no calibration samples"),
        (IMAGES[..., 0], r"\(samples, 4, 4, 1\).*Received: \(20, 4, 4\)"),
        (IMAGES[:, :3], r"Received: \(20, 3, 4, 1\)"),
        ([IMAGES[:2], IMAGES[:2, :3]], r"Received: \(2, 3, 4, 1\)"),
        (np.full((2, 4, 4, 1), "a"), "must be numbers.*<U1"),
        (np.full((2, 4, 4, 1), None), "must be numbers.*object"),
        ({"imag": IMAGES}, r"Did you mean 'image'.*\['imag'\]"),
        ({"image": IMAGES, "mask": IMAGES}, r"\['image', 'mask'\]"),
    ],
)
def test_data_that_do_not_fit(data, message):
    with pytest.raises(ValueError, match=message):
        one(data)


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf")])
def test_values_that_are_not_finite_are_found(value, shown):
    data = IMAGES.copy()
    data[7, 1, 2, 0] = value
    with pytest.raises(ValueError, match=rf"{shown} in sample 7 .*'image'.*\(1, 2, 0\); 1 value"):
        one(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"numbers": NUMBERS}, r"\['numbers', 'ids'\].*\['numbers'\]"),
        ([NUMBERS, IDS[:4]], "same number"),
        (NUMBERS, "has 2 inputs"),
        ([NUMBERS, IDS + 0.5], "not whole"),
        ([NUMBERS, IDS + 2**40], "from -2147483648"),
    ],
)
def test_several_inputs_that_do_not_fit(data, message):
    with pytest.raises(ValueError, match=message):
        calibration_samples(data, TWO)


def test_bad_arguments():
    with pytest.raises(ValueError, match="limit"):
        one(IMAGES, limit=0)
    with pytest.raises(TypeError, match="NoneType"):
        one(None)
