"""Data sets: the bundled digits, TensorFlow Datasets, .npz files, arrays and tf.data."""

from tfcompress.datasets.dataset import Dataset, Split
from tfcompress.datasets.loading import load
from tfcompress.datasets.preprocessing import Preprocessing

__all__ = ["Dataset", "Preprocessing", "Split", "load"]
