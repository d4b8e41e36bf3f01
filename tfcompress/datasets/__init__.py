"""Data sets: the bundled digits, TensorFlow Datasets, .npz files, arrays and tf.data."""

from tfcompress.datasets.dataset import Dataset, Split
from tfcompress.datasets.images import ImageFolder
from tfcompress.datasets.loading import load
from tfcompress.datasets.preprocessing import Preprocessing

__all__ = ["Dataset", "ImageFolder", "Preprocessing", "Split", "load"]
