import base64
import io

import numpy as np
import pytest

from tfcompress.evaluation.examples import disagreements, thumbnails
from tfcompress.evaluation.problem import Problem


def test_clearest_first():
    problem = Problem("classification", np.array([0, 1, 2]), 3)
    outputs = np.array([[0.1, 0.5, 0.4], [0.1, 0.9, 0.0], [0.7, 0.1, 0.2]])
    found = disagreements(problem, outputs, np.array([2, 1, 2]), np.array([1, 1, 0]))
    assert [item.index for item in found] == [2, 0]
    assert (found[0].label, found[0].baseline, found[0].predicted) == (2, 2, 0)
    assert found[0].margin == pytest.approx(0.5)


def test_binary_margin_is_the_distance_to_the_threshold():
    problem = Problem("classification", np.array([0, 1]), 2, threshold=0.5)
    (found,) = disagreements(problem, np.array([[0.9], [0.1]]), np.array([0, 0]), np.array([1, 0]))
    assert found.margin == pytest.approx(0.4)


def decoded(uri):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.array([0.0, 0.5, 1.0], np.float32), [0, 128, 255]),
        (np.array([-1.0, 0.0, 1.0], np.float32), [0, 128, 255]),
        (np.array([0, 100, 200], np.uint8), [0, 100, 200]),
        (np.array([0.0, 8.0, 16.0]), [0, 128, 255]),
    ],
)
def test_brightness(x, expected):
    pictures = thumbnails(x.reshape(1, 1, 3, 1), [0, 0])
    assert list(pictures) == ["0"]
    assert decoded(pictures["0"]).ravel().tolist() == expected


def test_large_pictures_are_reduced_and_other_inputs_have_none():
    assert decoded(thumbnails(np.zeros((2, 200, 100, 3)), [1])["1"]).shape == (50, 25, 3)
    assert thumbnails(np.zeros((2, 5)), [0]) == {}
    assert thumbnails(np.zeros((2, 8, 8, 16)), [0]) == {}
    assert thumbnails(np.zeros((2, 8, 8, 1)), []) == {}
