"""SavedModels of TensorFlow 1: a graph with a session's variables, which become constants."""

from __future__ import annotations

from typing import Any


class FrozenModel:
    """A TensorFlow 1 SavedModel, in the form of a loaded TensorFlow 2 one.

    Saved again as it is, its variables would come without their values.

    Args:
        folder: The SavedModel.

    Attributes:
        signatures: By name, functions of keyword tensors that return dictionaries of tensors.
    """

    def __init__(self, folder: str) -> None:
        import tensorflow as tf

        v1 = tf.compat.v1
        with tf.Graph().as_default() as graph, v1.Session() as session:
            loaded = v1.saved_model.load(session, [v1.saved_model.tag_constants.SERVING], folder)
            self.signatures = {
                name: _FrozenSignature(session, graph, definition)
                for name, definition in loaded.signature_def.items()
                if definition.inputs and definition.outputs
            }


class _FrozenSignature:
    """One signature with its variables as constants."""

    def __init__(self, session: Any, graph: Any, definition: Any) -> None:
        import tensorflow as tf

        self._inputs = {key: info.name for key, info in sorted(definition.inputs.items())}
        self._outputs = {key: info.name for key, info in sorted(definition.outputs.items())}
        tensors = {
            key: graph.get_tensor_by_name(name)
            for key, name in (*self._inputs.items(), *self._outputs.items())
        }
        self._graph = tf.compat.v1.graph_util.convert_variables_to_constants(
            session,
            graph.as_graph_def(),
            sorted({name.split(":")[0] for name in self._outputs.values()}),
        )
        self.structured_input_signature = (
            (),
            {
                key: tf.TensorSpec(tensors[key].shape, tensors[key].dtype, name=key)
                for key in self._inputs
            },
        )
        self.structured_outputs = {
            key: tf.TensorSpec(tensors[key].shape, tensors[key].dtype) for key in self._outputs
        }

    def __call__(self, **given: Any) -> dict[str, Any]:
        """Call it with a tensor for each input, by name."""
        import tensorflow as tf

        found = tf.compat.v1.import_graph_def(
            self._graph,
            input_map={name: given[key] for key, name in self._inputs.items()},
            return_elements=list(self._outputs.values()),
            name="",
        )
        return dict(zip(self._outputs, found, strict=True))
