"""`python -m bench.service FILE`: draw what `sonotag bench --output FILE` measured, beside that file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

LAG_PLOT = "service-lag.png"


def draw_lag(document: dict[str, Any], path: Path) -> None:
    """Draw the lag's percentiles and the service's processor time over the numbers of streams.

    Args:
        document: As `sonotag bench` writes it.
        path: Of the picture.
    """
    stages = sorted(document["streams"], key=lambda stage: stage["streams"])
    streams = [stage["streams"] for stage in stages]
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 7), sharex=True, layout="constrained")
    for name in ("p50", "p90", "p99"):
        points = [(stage["streams"], stage["client_lag"][name]) for stage in stages if stage["client_lag"][name] is not None]
        above.plot([number for number, _ in points], [1000 * lag for _, lag in points], marker="o", label=name)
    above.axhline(1000 * document["plan"]["slo_seconds"], color="black", linestyle=":", label="objective")
    for stage in stages:
        if stage["broken"]:
            above.axvline(stage["streams"], color="tab:red", alpha=0.2)
    above.set(ylabel="lag, ms", ylim=(0, None), title=f"{document['model']['name']} on {document['processor']}; red: broken")
    cores = [(number, stage["server"]["cores"]) for number, stage in zip(streams, stages, strict=True)]
    seen = [(number, value) for number, value in cores if value is not None]
    below.plot([number for number, _ in seen], [value for _, value in seen], marker="o", label="service")
    below.plot(streams, [stage["generator_cores"] for stage in stages], marker="o", label="load generator")
    below.set(xlabel="live streams", ylabel="cores used", ylim=(0, None))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> int:
    """Draw it."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    file = Path(sys.argv[1])
    draw_lag(json.loads(file.read_text()), file.with_name(LAG_PLOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
