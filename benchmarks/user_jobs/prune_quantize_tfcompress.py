"""Pruning and quantization-aware training in one `fit` of tfcompress, which verifies every file."""

import tfcompress as tfc


def compress(model, x, y, path):
    pruning = tfc.callbacks.MagnitudePruning(sparsity=0.8, end=0.25)
    quantization = tfc.callbacks.QuantizationAwareTraining("int8", begin=0.5, calibration=x[:256])
    model.fit(x, y, epochs=4, callbacks=[pruning, quantization])
    tfc.export(model, path, io="float32", calibration=x[:256])
