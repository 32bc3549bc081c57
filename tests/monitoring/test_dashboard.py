"""The dashboard's file: what Grafana needs to show it. What it asks is tested in test_scraping.py, by a real Prometheus."""

from __future__ import annotations

import itertools
import re
from typing import Any

import yaml

from tests.support.prometheus import CONFIG, DASHBOARD, GRAFANA, read_dashboard, read_queries

PANELS: list[dict[str, Any]] = read_dashboard()["panels"]


def test_the_sections_are_there_in_their_order() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Overview", "Latency by stage", "Streams and lag", "Batching", "GPU", "Errors"]


def test_every_stage_has_a_heat_map() -> None:
    expressions = [query.expression for query in read_queries() if query.kind == "heatmap"]
    for stage in ("decode", "resample", "queue", "infer", "postprocess"):
        assert sum(f'stage="{stage}"' in expression for expression in expressions) == 1


def test_every_panel_has_its_own_place_and_id() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        own = set(itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])))
        assert place["x"] + place["w"] <= 24
        assert own.isdisjoint(cells), panel["title"]
        cells |= own


def test_every_panel_says_what_it_shows_and_asks_for_the_chosen_instances() -> None:
    for panel in PANELS:
        if panel["type"] == "row":
            continue
        assert len(panel["description"]) > 10, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            expression = target["expr"]
            num_series = expression.count('{job="sonotag", instance=~"$instance"')
            assert num_series == len(re.findall(r"\b(?:sonotag_|instance:)[\w:]+", expression)) >= 1, expression
        if panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_the_data_source_is_the_provisioned_one() -> None:
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    used = {panel["datasource"]["uid"] for panel in PANELS if panel["type"] != "row"}
    used |= {target["datasource"]["uid"] for panel in PANELS for target in panel.get("targets", ())}
    used |= {variable["datasource"]["uid"] for variable in read_dashboard()["templating"]["list"]}
    assert used == {source["uid"]}
    interval = yaml.safe_load(CONFIG.read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval, "$__rate_interval follows from it"


def test_the_provider_reads_the_folder_of_dashboards() -> None:
    provider = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "sonotag.yml").read_text())["providers"][0]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert [path.name for path in DASHBOARD.parent.iterdir()] == ["sonotag.json"]
