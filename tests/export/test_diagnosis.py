from tfcompress.export.diagnosis import diagnose


def test_names_the_loop_and_its_cure():
    notes = [
        {"stage": "converting with scheme 'int8'"},
        {"suspects": [{"op": "While", "name": "net/lstm/while"}]},
    ]
    text = diagnose("", notes)
    assert "net/lstm/while (While)" in text
    assert "unroll=True" in text
    assert "converting with scheme 'int8'" in text


def test_finds_operators_and_layers_in_a_log():
    log = (
        "error: 'tfl.transpose' op has mismatched quantized axes of input and output\n"
        'loc(fused["MatMul:", "net/dense_1/MatMul@__inference_serve_12"])\n'
        'File "/usr/lib/python/a/b.py", line 3\n'
    )
    text = diagnose(log)
    assert "tfl.transpose" in text
    assert "net/dense_1/MatMul" in text
    assert "b.py" not in text
    assert "tfcompress.export" in text


def test_says_nothing_when_nothing_is_known():
    assert diagnose("all is well") == ""
