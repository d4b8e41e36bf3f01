"""Reading Keras models as flat graphs of operations, and making models out of them."""

from tfcompress.graph.flat import Graph as Graph
from tfcompress.graph.flat import Node as Node
from tfcompress.graph.flat import Tensor as Tensor
from tfcompress.graph.flat import UntraceableModelError as UntraceableModelError
from tfcompress.graph.flat import flatten as flatten
