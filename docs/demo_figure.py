"""Draw the README's picture from a finished `make demo`: python docs/demo_figure.py."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tfcompress.evaluation import Report

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write `docs/images/digits_report.png`."""
    report = Report.from_json(ROOT / "runs" / "demo" / "report.json")
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    titles = {
        "gzip": "Accuracy and size",
        "latency": "Latency",
        "sparsity": f"Zeros per layer, {report.entries[-1].name}",
    }
    for (kind, title), ax in zip(titles.items(), axes):
        report.plot(kind, ax=ax)
        ax.set_title(title)
    figure.savefig(ROOT / "docs" / "images" / "digits_report.png", dpi=100)


if __name__ == "__main__":
    main()
