import os
from pathlib import Path

import numpy as np
import pytest

from tfcompress import datasets
from tfcompress.datasets import Preprocessing

tfds = pytest.importorskip("tensorflow_datasets")

SIZES = {"train": 30, "test": 9}


def write_prepared(data_dir: Path, name: str, sizes: dict[str, int]) -> None:
    """Write a data set as TFDS itself would have prepared it: image i has the value i."""
    folder = data_dir / name / "1.0.0"
    folder.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name,
        version=tfds.core.Version("1.0.0"),
        data_dir=str(folder),
        module_name=name,
    )
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(names=["circle", "square", "star"]),
        }
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=features, supervised_keys=("image", "label")
    )
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=100)
    writer.initialize_splits(list(sizes))
    for split, size in sizes.items():
        samples = [{"image": np.full((8, 8, 1), i, np.uint8), "label": i % 3} for i in range(size)]
        writer.add_examples({split: samples})
    writer.close_all()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    write_prepared(folder, "tiny_shapes", SIZES)
    write_prepared(folder, "train_only", {"train": 20})
    write_prepared(folder, "with_validation", {"train": 6, "validation": 3})
    return folder


def test_prepared_set(data_dir):
    data = datasets.load("tfds:tiny_shapes", data_dir=data_dir)
    assert data.name == "tfds:tiny_shapes"
    assert data.train.x.shape == (30, 8, 8, 1)
    assert data.test.y.tolist() == [0, 1, 2] * 3
    assert data.classes == ("circle", "square", "star")
    assert data.preprocessing == Preprocessing(scale=1 / 255)
    np.testing.assert_allclose(data.train.x[:, 0, 0, 0], np.arange(30) / 255, atol=1e-7)


def test_raw_pixels_on_request(data_dir):
    data = datasets.load("tfds:tiny_shapes", data_dir=data_dir, preprocessing=Preprocessing())
    assert data.train.x.dtype == np.uint8


def test_without_a_test_split(data_dir):
    data = datasets.load("tfds:train_only", data_dir=data_dir)
    assert (data.train.size, data.test.size) == (16, 4)
    data = datasets.load("tfds:with_validation", data_dir=data_dir)
    assert (data.train.size, data.test.size, data.validation) == (6, 3, None)


def test_not_prepared_says_where_and_how(data_dir):
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load("tfds:mnist", data_dir=data_dir)
    message = str(caught.value)
    assert f"not prepared in {data_dir} " in message
    assert f"tfds.load('mnist', data_dir='{data_dir}')" in message
    assert "tiny_shapes" in message


def test_not_prepared_with_a_configuration(data_dir):
    with pytest.raises(FileNotFoundError, match=f"not prepared in {data_dir} "):
        datasets.load("tfds:cifar10_corrupted/fog_1", data_dir=data_dir)


def test_unknown_name(data_dir):
    with pytest.raises(ValueError, match="Did you mean 'tfds:mnist'"):
        datasets.load("tfds:mnst", data_dir=data_dir)
    with pytest.raises(ValueError, match="Did you mean 'tfds:tiny_shapes'"):
        datasets.load("tfds:tiny_shape", data_dir=data_dir)


def test_damaged_records(tmp_path):
    write_prepared(tmp_path, "tiny_shapes", SIZES)
    (record,) = tmp_path.glob("tiny_shapes/1.0.0/*train.tfrecord*")
    record.write_bytes(record.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"train split of TFDS data set 'tiny_shapes'.*damaged"):
        datasets.load("tfds:tiny_shapes", data_dir=tmp_path)


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_real_prepared_sets(name, shape):
    folder = os.environ.get("TFCOMPRESS_DATA_DIR")
    if folder is None or not Path(folder, name).is_dir():
        pytest.skip(f"TFCOMPRESS_DATA_DIR does not name a folder with {name} prepared in it")
    data = datasets.load(f"tfds:{name}", data_dir=folder)
    assert data.input_shape == shape
    assert data.num_classes == 10
    assert 0.0 <= data.test.x.min() < data.test.x.max() <= 1.0
