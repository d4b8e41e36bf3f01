"""The callback on JAX, where TensorFlow cannot be imported."""

import pytest


# By default tests/backends prune on JAX and PyTorch, with less to look at.
@pytest.mark.slow
def test_jax_without_tensorflow(tmp_path, fit, kernels, run_python):
    script = f"""
        import sys
        sys.modules["tensorflow"] = None
        import keras, numpy as np
        from keras import layers
        from tfcompress.callbacks import MagnitudePruning
        from tfcompress.pruning import apply_masks, find_state
        folder = {str(tmp_path)!r}

        def build(seed=0, rate=0.1, **arguments):
            keras.utils.set_random_seed(seed)
            model = keras.Sequential([keras.Input((8,)), layers.Dense(16, activation="relu"),
                layers.BatchNormalization(), layers.Dropout(rate), layers.Dense(2)])
            model.compile(keras.optimizers.Adam(0.01, use_ema=arguments.pop("ema", False)),
                          "mse", **arguments)
            return model

        def kernels(model):
            return np.concatenate(
                [np.ravel(l.kernel) for l in model.layers if hasattr(l, "kernel")])

        class Seen(keras.callbacks.Callback):
            def __init__(self):
                super().__init__()
                self.values = []
            def on_train_batch_end(self, batch, logs=None):
                self.values.append(float(np.mean(kernels(self.model) == 0)))

        class Kill(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 3:
                    raise KeyboardInterrupt

        x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        def fit(model, *callbacks, epochs=6):
            return model.fit(x, x[:, :2], epochs=epochs, batch_size=16, verbose=0, shuffle=False,
                             validation_data=(x, x[:, :2]), callbacks=list(callbacks))

        for arguments in ({{}}, {{"steps_per_execution": 2}}, {{"ema": True}},
                          {{"jit_compile": False}}):
            model, seen = build(**arguments), Seen()
            weights = len(model.weights)
            stop = keras.callbacks.EarlyStopping(restore_best_weights=True, patience=100)
            history = fit(model, MagnitudePruning(0.75), seen, stop)
            assert seen.values[-1] == 0.75, (arguments, seen.values)
            assert np.mean(kernels(model) == 0) == 0.75, arguments
            assert history.history["sparsity"][-1] == 0.75
            assert len(model.weights) == weights and len(model.layers) == 4
            assert "train_step" not in vars(model)
            assert apply_masks(model).sparsity == 0.75
        before = kernels(model)
        model.save(folder + "/model.keras")
        np.testing.assert_array_equal(kernels(keras.models.load_model(folder + "/model.keras")),
                                      before)
        fit(model, epochs=1)
        assert np.mean(kernels(model) == 0) < 0.4

        whole = build(rate=0.0)
        fit(whole, MagnitudePruning(0.75))
        backup = lambda: keras.callbacks.BackupAndRestore(folder + "/backup",
                                                          delete_checkpoint=False)
        killed = build(rate=0.0)
        interrupted = False
        try:
            fit(killed, MagnitudePruning(0.75), backup(), Kill())
        except KeyboardInterrupt:
            interrupted = True
        assert interrupted
        resumed = build(1, rate=0.0)
        fit(resumed, backup(), MagnitudePruning(0.75))
        assert find_state(resumed).step == 24
        np.testing.assert_array_equal(kernels(resumed), kernels(whole))
        fit(killed, MagnitudePruning(0.75))
        assert len(killed.weights) == len(whole.weights)

        def linear(optimizer, **arguments):
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((8,)), layers.Dense(4, use_bias=False)])
            model.compile(optimizer, "mse", **arguments)
            return model

        sgd = keras.optimizers.SGD
        for optimizer in (sgd(0.0), keras.optimizers.LossScaleOptimizer(sgd(0.0))):
            model = linear(optimizer, steps_per_execution=2)
            weight, expected = np.asarray(model.layers[0].kernel), 0
            for a in np.split(x, 4)[:2]:
                expected = expected - weight * (2 / 64 * a.T @ (a @ weight - a[:, :4]))
            model.fit(x, x[:, :4], batch_size=16, verbose=0, shuffle=False,
                      callbacks=[MagnitudePruning(0.5, criterion="movement", end=1.0)])
            kept = np.asarray(model.layers[0].kernel) != 0
            assert kept.sum() == 16
            assert expected[kept].min() >= expected[~kept].max() - 1e-6
        model = build()
        fit(model, MagnitudePruning(0.5, criterion="apoz", data=x), epochs=2)
        assert (np.asarray(model.layers[0].kernel) == 0).all(axis=0).sum() == 8
        model = build()
        fit(model, MagnitudePruning(pattern="2:4"), epochs=2)
        assert ((np.asarray(model.layers[0].kernel).T.reshape(-1, 4) != 0).sum(axis=1) == 2).all()
        assert not [name for name in sys.modules if name.startswith("tensorflow.")]
        print("done")
    """
    assert "done" in run_python(script, KERAS_BACKEND="jax")
