from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest

from tfcompress.datasets import ImageFolder
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


class TestImages:
    """A folder of images becomes what the model takes."""

    @pytest.fixture
    def folder(self, tmp_path):
        from PIL import Image

        for number in range(3):
            pixels = np.full((10, 6, 3), 50 * number, np.uint8)
            (tmp_path / f"class_{number}").mkdir()
            Image.fromarray(pixels).save(tmp_path / f"class_{number}" / "a.png")
        (tmp_path / "notes.txt").write_text("no image")
        return tmp_path

    def test_scaled_to_the_unit_range_by_default(self, folder):
        inputs = [("image", (5, 4, 3), "float32")]
        seen = calibration_samples(str(folder), inputs)["image"]
        assert seen.shape == (3, 5, 4, 3)
        np.testing.assert_allclose(seen[:, 0, 0, 0], [0, 50 / 255, 100 / 255], atol=1e-6)

    def test_other_scales_channels_and_types(self, folder):
        images = ImageFolder(folder, scale=1 / 127.5, offset=-1, size=(5, 4))
        seen = calibration_samples(images, [("image", (None, None, 1), "float32")])["image"]
        assert seen.shape == (3, 5, 4, 1)
        np.testing.assert_allclose(
            seen[:, 0, 0, 0], [-1, 50 / 127.5 - 1, 100 / 127.5 - 1], atol=1e-2
        )
        seen = calibration_samples(folder, [("image", (5, 4, 4), "uint8")], limit=2)["image"]
        assert seen.dtype == np.uint8
        assert seen[:, 0, 0].tolist() == [[0, 0, 0, 255], [100, 100, 100, 255]]

    def test_bad_folders(self, folder):
        with pytest.raises(ValueError, match=r"size=\(height, width\)"):
            calibration_samples(folder, [("image", (None, None, 3), "float32")])
        with pytest.raises(ValueError, match=r"\(height, width, channels\).*\(3,\)"):
            calibration_samples(folder, [("x", (3,), "float32")])
        with pytest.raises(ValueError, match="one input"):
            calibration_samples(folder, TWO)
        (folder / "broken.png").write_bytes(b"PNG?")
        with pytest.raises(ValueError, match=r"cannot be read.*broken\.png"):
            calibration_samples(folder, ONE)
        (folder / "empty").mkdir()
        with pytest.raises(ValueError, match="holds no images"):
            calibration_samples(folder / "empty", ONE)


def test_functions_and_data_sets_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_samples.py").write_text(
        "import numpy as np\nfour = np.ones((4, 4, 4, 1))\n"
        "def batches():\n    yield {'image': four}\n    yield four[:2], [0, 0]\n"
        "def needs(what):\n    return four\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert one("my_samples:batches").shape == (6, 4, 4, 1)
    assert one("my_samples:four").shape == (4, 4, 4, 1)
    seen = calibration_samples("digits", [("image", (8, 8, 1), "float32")])["image"]
    assert seen.shape == (256, 8, 8, 1)
    assert seen.max() == 1
    for name, message in {
        "my_samples:nothing": "no such function",
        "my_samples:needs": "no arg",
    }.items():
        with pytest.raises(ValueError, match=message):
            one(name)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        one("nowhere")


@pytest.mark.parametrize(
    ("values", "doubt"),
    [
        (np.full((4, 4, 4, 1), 3.0), "All values"),
        (np.repeat(IMAGES[1:2], 5, 0), "are the same"),
        (IMAGES * 1e6, "scaled as in training"),
        (np.floor(IMAGES % 251), "like pixels"),
        (IMAGES / 320, None),
    ],
)
def test_implausible_samples_are_doubted(values, doubt):
    with mock.patch("absl.logging.warning") as warning:
        one(values)
    said = [str(call.args[-1]) for call in warning.call_args_list]
    assert said == [] if doubt is None else doubt in said[0]
