"""Pruning to 80 % zeros, then post-training int8, with tfcompress, which verifies every file."""

import tfcompress as tfc


def compress(model, x, y, path):
    pruning = tfc.callbacks.MagnitudePruning(sparsity=0.8, end=0.5)
    model.fit(x, y, epochs=2, callbacks=[pruning])
    tfc.convert(model, path, "int8", calibration=x[:256], io="float32")
