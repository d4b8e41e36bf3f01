import numpy as np
import pytest

from tfcompress import datasets
from tfcompress.datasets import Preprocessing


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


PINNED_TEST_LABELS = [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]


def test_digits(digits):
    assert digits.train.x.shape == (1437, 8, 8, 1)
    assert digits.test.x.shape == (360, 8, 8, 1)
    assert digits.train.x.dtype == np.float32
    assert digits.train.y.dtype == np.int64
    assert (digits.train.x.min(), digits.train.x.max()) == (0.0, 1.0)
    assert digits.classes == tuple("0123456789")
    assert digits.num_classes == 10
    assert digits.input_shape == (8, 8, 1)
    assert digits.validation is None
    assert digits.preprocessing == Preprocessing(scale=1 / 16)
    # Stratified: every class has 10 % of the test samples, give or take one or two.
    assert np.all(np.abs(np.bincount(digits.test.y) - 36) <= 2)


def test_digits_are_the_same_every_time_and_the_splits_share_nothing(digits):
    again = datasets.load("digits")
    np.testing.assert_array_equal(again.test.y, digits.test.y)
    np.testing.assert_array_equal(again.train.x, digits.train.x)
    # Pinned: a split that silently moves would make earlier results incomparable.
    assert digits.test.y[:12].tolist() == PINNED_TEST_LABELS
    train = {image.tobytes() for image in digits.train.x}
    assert not any(image.tobytes() in train for image in digits.test.x)


def test_validation_is_taken_from_training(digits):
    data = datasets.load("digits", validation=0.25)
    assert data.validation is not None
    assert (data.train.size, data.validation.size) == (1077, 360)
    np.testing.assert_array_equal(data.test.y, digits.test.y)
    assert "validation=360" in repr(data)


def test_preprocessing_replaces_the_default():
    data = datasets.load("digits", preprocessing={"scale": 0.125, "offset": -1.0})
    assert (data.train.x.min(), data.train.x.max()) == (-1.0, 1.0)
    assert data.preprocessing.to_dict()["scale"] == 0.125


def test_npz_with_four_arrays(tmp_path):
    path = tmp_path / "data.npz"
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.savez(path, x_train=x, y_train=np.array([0, 1, 2] * 2), x_test=x[:2], y_test=[0, 1])
    data = datasets.load(path)
    assert data.name == str(path)
    np.testing.assert_array_equal(data.train.x, x)
    assert data.classes == ("0", "1", "2")
    assert data.test.size == 2


def test_npz_with_two_arrays_is_split_once_and_for_all(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(50.0), y=np.linspace(0, 1, 50))
    first, second = datasets.load(str(path)), datasets.load(str(path))
    assert (first.train.size, first.test.size) == (40, 10)
    np.testing.assert_array_equal(first.test.x, second.test.x)
    assert first.classes is None


def test_npz_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
        datasets.load(tmp_path / "missing.npz")
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(ValueError, match=r"broken\.npz cannot be read"):
        datasets.load(broken)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, x=np.array([{"a": 1}], dtype=object), y=[1])
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz file of plain arrays"):
        datasets.load(pickled)
    other = tmp_path / "other.npz"
    np.savez(other, images=np.zeros(3))
    with pytest.raises(ValueError, match=r"must hold the arrays x_train.*Received: images"):
        datasets.load(other)


def test_arrays_and_pairs():
    x, y = np.zeros((10, 2)), np.arange(10) % 2
    data = datasets.load((x, y))
    assert (data.train.size, data.test.size) == (8, 2)
    data = datasets.load(((x, y), (x[:3], y[:3])))
    assert (data.train.size, data.test.size) == (10, 3)
    assert datasets.load(data) is data


@pytest.mark.parametrize(
    "labels", [[0, 1, 1, 0], [[0], [1], [1], [0]], [np.array([n, 1 - n]) for n in (0, 1, 1, 0)]]
)
def test_labels_in_a_list(labels):
    x = np.zeros((4, 2))
    data = datasets.load(((x, labels), (x, labels)))
    np.testing.assert_array_equal(data.test.y, np.array(labels))


def test_several_inputs():
    x = {"image": np.zeros((10, 4, 4)), "text": np.zeros((10, 3), np.int32)}
    data = datasets.load((x, np.arange(10) % 2))
    assert data.input_shape == {"image": (4, 4), "text": (3,)}
    assert data.train.x["text"].shape == (8, 3)


def test_tf_data():
    tf = pytest.importorskip("tensorflow")
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10) % 5
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    data = datasets.load((batches, batches))
    np.testing.assert_array_equal(data.train.x, x)
    np.testing.assert_array_equal(data.test.y, y)
    single = tf.data.Dataset.from_tensor_slices((x, y))
    assert datasets.load(single).train.size == 8
    with pytest.raises(ValueError, match="never ends"):
        datasets.load(batches.repeat())
    with pytest.raises(ValueError, match=r"\(x, y\) pairs"):
        datasets.load(tf.data.Dataset.from_tensor_slices(x))
    with pytest.raises(ValueError, match="is empty"):
        datasets.load(batches.take(0))
    with pytest.raises(ValueError, match=r"one output.*dict of 1"):
        datasets.load(batches.map(lambda x, y: (x, {"a": y})))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "Did you mean 'digits'"),
        ("mnist", "Did you mean 'tfds:mnist'"),
        ("tfds:", "Unknown data set"),
        ("zzzzzzzz", "Known: 'digits'"),
        (3, "Received: int"),
        ((np.zeros((4, 2)), np.zeros(3)), r"one length.*\(4, 2\)"),
        ((np.zeros((0, 2)), np.zeros(0)), "at least one sample"),
        ((np.array(["a", "b"]), np.zeros(2)), "must be numeric"),
        ((np.zeros((4, 2)), {"a": np.zeros(4)}), "one output.*dict of 1"),
        ((np.zeros((4, 2)), (np.zeros(4), np.zeros((4, 3)))), "one output.*tuple of 2"),
        ((np.zeros((4, 2)), [np.zeros(4), np.zeros((4, 3))]), "one output.*list of 2"),
        ((np.zeros((4, 2)), [np.zeros((4, 1)), np.zeros((4, 1))]), "one output.*list of 2"),
        ((np.zeros((3, 2)), [[0], [1, 2], [0]]), "one shape for all samples.*list of 3"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(spec)


def test_bad_validation_share():
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        datasets.load("digits", validation=1.0)
