"""Models of other libraries as Keras 3 models: tf_keras (Keras 2), and what tfmot wrapped."""

from tfcompress.interop.tf_keras_model import from_tf_keras as from_tf_keras
from tfcompress.interop.transfer import Transfer as Transfer
from tfcompress.interop.transfer import find_transfer as find_transfer
