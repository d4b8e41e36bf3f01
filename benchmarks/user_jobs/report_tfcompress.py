"""Scores, sizes and latency of a model and its file with tfcompress; plots come with them."""

import tfcompress as tfc


def report(model, path, x, y, output):
    tfc.compare({"float": model, "int8": path}, (x, y)).to_json(output)
