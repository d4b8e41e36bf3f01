"""What the callback writes, read back from the event file."""

from collections import defaultdict

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.callbacks import MagnitudePruning, QuantizationSchedule, TensorBoardCompression


def read(folder):
    """Return by tag the values of the summaries, in the order in which they were written."""
    tf = pytest.importorskip("tensorflow")
    found = defaultdict(list)
    for path in sorted((folder / "compression").iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                found[value.tag].append(tf.make_ndarray(value.tensor))
    return found


def compiled(model):
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def test_pruning(tiny_cnn, digits, tmp_path):
    model = compiled(tiny_cnn())
    pruning = MagnitudePruning(0.6, end=0.5)
    board = TensorBoardCompression(tmp_path, samples=digits.train.x[:8])
    model.fit(*digits.train, epochs=3, batch_size=128, verbose=0, callbacks=[pruning, board])
    found = read(tmp_path)
    sparsity = np.ravel(found["sparsity"])
    assert len(sparsity) == 3
    assert sparsity[0] < sparsity[1] == pytest.approx(0.6, abs=0.01)
    assert np.ravel(found["mask_change/logits/kernel"])[0] > 0.2
    # After the end of the schedule the masks rest.
    assert np.ravel(found["mask_change/logits/kernel"])[-1] == 0
    counts = found["weight/logits/kernel"][-1][:, 2]
    assert counts.sum() == model.get_layer("logits").kernel.shape[0] * 10
    assert found["activation/relu"][0][:, 2].sum() == 8 * 8 * 8 * 4
    assert not [tag for tag in found if tag.startswith("range/")]


def test_quantization(tiny_cnn, digits, tmp_path):
    qat = compiled(tfc.quantize_aware(tiny_cnn(), calibration=digits.train.x[:64], verbose=False))
    board = TensorBoardCompression(tmp_path, frequency=2, histograms=False)
    schedule = QuantizationSchedule(freeze_ranges=0.5)
    qat.fit(*digits.train, epochs=4, batch_size=256, verbose=0, callbacks=[schedule, board])
    found = read(tmp_path)
    highs = {tag: np.ravel(v) for tag, v in found.items() if tag.endswith("/high")}
    assert highs
    assert all(len(values) == 2 for values in highs.values())
    assert any(values[0] == values[1] for values in highs.values())
    assert not [tag for tag in found if tag.startswith("weight/")]
    # The second and the fourth of four epochs.
    assert np.ravel(found["quantizing"]).tolist() == [1, 1]
    assert np.ravel(found["ranges_frozen"]).tolist() == [1, 1]
    assert "batchnorm_frozen" not in found


def test_arguments():
    with pytest.raises(ValueError, match="frequency=0"):
        TensorBoardCompression(frequency=0)
    board = TensorBoardCompression("here", bins=7)
    assert TensorBoardCompression(**board.get_config()).get_config() == board.get_config()
    assert isinstance(board, keras.callbacks.Callback)
