import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tfcompress.evaluation import Latency, Report


def test_text_reads_well_in_a_terminal(report):
    text = str(report)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80
    assert "classification on shapes (test split): 30 samples, deltas to 'float'" in text
    rows = {}
    for line in text.splitlines():
        for name in ("float", "int8", "pruned & int8"):
            if line.startswith(name + "  "):
                rows.setdefault(name, []).append(line)
    assert re.match(r"int8 +87\.50 -2\.50 ", rows["int8"][0])
    assert "1.2 kB -69%" in rows["int8"][1]
    assert "0.100 -50%" in rows["int8"][-1]
    assert "-80%" not in rows["float"][1]
    # Four tables: what is too wide goes on below.
    assert len(rows["pruned & int8"]) == 4


def test_the_shell_shows_the_table(report):
    assert repr(report) == str(report)


def test_notes_are_wrapped(report):
    report.data = "a long description of where the data came from and of how they were cleaned"
    report.entries[0].kind = "keras"
    report.entries[0].latency = Latency((1.0,), None, "Keras (tensorflow)")
    assert len(report.notes()) == 2
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines).endswith(" ".join(report.notes()))


def test_long_names_are_cut(report):
    report.entries[1].name = "a name that goes on and on without any end"
    assert max(map(len, str(report).splitlines())) <= 80
    assert "a name that goes on..." in str(report)


def test_frame(report):
    frame = report.to_frame()
    assert frame.index.tolist() == ["float", "int8", "pruned & int8"]
    assert frame.loc["int8", "accuracy_delta"] == pytest.approx(-0.025)
    assert frame.loc["int8", "bytes_delta"] == -2750
    assert frame.loc["float", "latency_ms_delta"] == 0
    assert "calibration_error" not in frame
    assert set(frame.dtypes) == {np.dtype("float64")}


def test_entries_by_name(report):
    assert report["int8"] is report.entries[1]
    with pytest.raises(KeyError, match="no entry 'int4'"):
        report["int4"]


def test_json_round_trip(report, tmp_path):
    path = report.to_json(tmp_path / "deep" / "report.json")
    document = json.loads(path.read_text())
    assert document["entries"][1]["deltas"]["accuracy"] == pytest.approx(-0.025)
    assert document["metadata"]["seed"] == 7
    assert document["notes"] == report.notes()
    assert document["entries"][1]["f1_deltas"] == pytest.approx(
        [own.f1 - base.f1 for own, base in zip(report["int8"].per_class, report.baseline.per_class)]
    )
    changes = np.sum(document["entries"][1]["confusion_deltas"])
    assert changes == 0 != np.abs(document["entries"][1]["confusion_deltas"]).sum()
    for entry, row in zip(report.entries, document["entries"]):
        assert [w["sparsity"] for w in row["weights"]] == [w.sparsity for w in entry.weights]
        assert [w["bits"] for w in row["weights"]] == [w.bits for w in entry.weights]
        assert [item["sparsity"] for item in row["layers"]] == [x.sparsity for x in entry.layers]
    assert Report.from_json(path) == report


def test_front_has_what_nothing_beats(report, tmp_path):
    sizes = [(e.figures["bytes"], e.figures["accuracy"], e.name) for e in report.entries]
    unbeaten = {
        name
        for size, accuracy, name in sizes
        if not any(s <= size and a >= accuracy and n != name for s, a, n in sizes)
    }
    assert set(report.front()) == unbeaten
    document = json.loads(report.to_json(tmp_path / "report.json").read_text())
    assert document["fronts"]["bytes"] == report.front("bytes")
    for item in report.entries:
        item.figures["gzip_bytes"] = None
    assert report.front("gzip_bytes") == []


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"version": 99, "entries": []}'])
def test_bad_json(text, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="report"):
        Report.from_json(path)


class Page(HTMLParser):
    """Collects what the tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.tags, self.links, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_self_contained(report, tmp_path):
    path = report.to_html(tmp_path / "report.html")
    text = path.read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in [tag for tag in page.tags if tag == "script"]
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    # 3 trade-offs, 2 of latency, layers of 3, weights of 2, sparsity of the pruned one,
    # calibration, 3 matrices and 2 changes.
    assert page.tags.count("svg") == 17
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert "<star>" not in text
    assert "pruned &amp; int8" in text


def test_plots_follow_the_colour_scheme(report, tmp_path):
    from tfcompress.evaluation.palette import TONES

    text = report.to_html(tmp_path / "report.html").read_text()
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--entry-2)" in drawings
    assert not [tone.light for tone in TONES if tone.light in drawings]


def test_the_same_plot_gives_the_same_drawing(report):
    from tfcompress.evaluation.svg import svg

    first, second = (svg(report.plot("size"), "a", "plot") for _ in range(2))
    assert first == second
    other = svg(report.plot("size"), "b", "plot")
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(re.findall(r' id="([^"]+)"', other))


def test_page_of_a_regression(report, tmp_path):
    report.task, report.classes = "regression", None
    for item in report.entries:
        item.per_class = item.confusion = None
        item.disagreements, item.disagreement_count = [], 0
        figures = {key: item.figures[key] for key in ("bytes", "gzip_bytes", "parameters")}
        item.figures = {"mae": 0.5, "mse": 0.4, **figures}
        item.latency = None
        item.calibration, item.layers, item.histograms = None, [], []
    text = report.to_html(tmp_path / "report.html").read_text()
    assert text.count("<svg") == 3
    assert "Confusion" not in text
    assert "MAE" in str(report)
    assert "accuracy" not in str(report)


def test_notebook_table(report):
    text = report._repr_html_()
    assert "<script" not in text
    assert text.count("<table") == 3
    assert "pruned &amp; int8" in text
    assert "87.50" in text


@pytest.mark.parametrize(
    "kind",
    [
        *("size", "gzip", "speed", "latency", "distribution"),
        *("sparsity", "confusion", "calibration", "layers", "weights"),
    ],
)
def test_plots(report, kind):
    axes = report.plot(kind, entry="pruned & int8")
    axes.figure.canvas.draw()
    assert axes.has_data()


def test_plots_into_given_axes(report):
    from matplotlib.figure import Figure

    given = Figure().add_subplot()
    assert report.plot(ax=given) is given
    xs = sorted(line.get_xdata()[0] for line in given.lines if line.get_marker() in "osD")
    assert xs == [1000, 1250, 4000]


def test_sparsity_plot_shows_the_sparsity(report):
    axes = report.plot("sparsity")
    widths = [patch.get_width() for patch in axes.patches]
    assert widths == pytest.approx([100, 80])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv/kernel"]


def test_layers_plot_shows_shares(report):
    axes = report.plot("layers", entry="int8")
    assert [patch.get_width() for patch in axes.patches] == [100, 100]
    assert "64 k MACs" in axes.texts[0].get_text()


def test_weights_plot_marks_the_grid(report):
    axes = report.plot("weights", weight="conv/kernel")
    # 15 codes, each marked.
    (grid,) = axes.collections
    assert [segment[0][0] for segment in grid.get_segments()] == list(range(-7, 8))
    with pytest.raises(ValueError, match="weight='dense'"):
        report.plot("weights", weight="dense")


def test_latency_plot_keeps_room_for_the_bars(report):
    assert "arrow" not in report.plot("latency").get_xlabel()
    report["int8"].figures["latency_p95_ms"] = 50.0
    axes = report.plot("latency")
    # Three times the longest median, and room for the texts.
    assert axes.get_xlim()[1] == pytest.approx(3 * 0.2 * 1.28)
    assert "arrow: beyond" in axes.get_xlabel()


def test_calibration_plot_has_the_diagonal_and_a_line_for_each_entry(report):
    assert len(report.plot("calibration").lines) == 1 + 3


def test_a_notebook_shows_no_plots_of_the_page(report, tmp_path, monkeypatch):
    import sys

    import matplotlib.pyplot as plt

    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    report.to_html(tmp_path / "report.html")
    assert plt.get_fignums() == []
    report.plot("latency")
    assert len(plt.get_fignums()) == 1
    plt.close("all")


def test_plots_leave_pyplot_alone(report):
    import sys

    before = "matplotlib.pyplot" in sys.modules
    report.plot("latency")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_plots_that_are_not_there(report):
    with pytest.raises(ValueError, match="`kind` must be one of 'size'"):
        report.plot("pie")
    for item in report.entries:
        item.figures["bytes"] = None
        item.confusion = None
    with pytest.raises(ValueError, match="There is no 'size' plot"):
        report.plot("size")
    with pytest.raises(ValueError, match="no confusion matrix"):
        report.plot("confusion")
    report["int8"].histograms = []
    with pytest.raises(ValueError, match="kernels of 'int8' are stored sparsely"):
        report.plot("weights", entry="int8")
    report["int8"].weights = []
    with pytest.raises(ValueError, match=r"'int8' has no kernels\.$"):
        report.plot("sparsity", entry="int8")
