"""The dashboard and the alert rules, held against what `/metrics` has, and by Prometheus's own tool."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from harmonia_py.metrics.families import FAMILIES

DASHBOARDS: Final = Path(__file__).parent.parent / "dashboards"
_NAME: Final = re.compile(r"\b(?:harmonia|process)_[a-z_]+\b")
_LABEL: Final = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")


def expressions(dashboard: Any) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]


def dashboard() -> Any:
    return json.loads((DASHBOARDS / "grafana.json").read_text())


def series_names() -> set[str]:
    names = set()
    for family in FAMILIES:
        suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        names |= {family.name + suffix for suffix in suffixes}
    return names


@pytest.mark.parametrize("name", ["grafana.json", "alerts.yml", "alerts_test.yml"])
def test_every_metric_that_is_named_is_on_metrics(name: str) -> None:
    named = set(_NAME.findall((DASHBOARDS / name).read_text()))
    assert named
    assert named <= series_names()


@pytest.mark.parametrize("name", ["grafana.json", "alerts.yml"])
def test_every_label_that_is_named_is_one_of_its_metric(name: str) -> None:
    text = (DASHBOARDS / name).read_text().replace('\\"', '"')
    families = {family.name: set(family.labels) for family in FAMILIES}
    for metric, selector in re.findall(r"\b((?:harmonia|process)_[a-z_]+)\{([^}]*)\}", text):
        family = re.sub(r"_(bucket|sum|count)$", "", metric)
        assert set(_LABEL.findall(selector)) <= families[family] | {"job", "instance"}, metric


def test_the_reference_is_current() -> None:
    """Run scripts/generate_reference.py after a change of families."""
    script = DASHBOARDS.parent / "scripts" / "generate_reference.py"
    done = subprocess.run(
        [sys.executable, script, "--check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(DASHBOARDS.parent)},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_panel_has_a_place_of_its_own_and_says_what_it_shows() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_what_is_worth_an_alert_can_be_seen_on_the_dashboard() -> None:
    alerts = set(_NAME.findall((DASHBOARDS / "alerts.yml").read_text()))
    seen = set(_NAME.findall((DASHBOARDS / "grafana.json").read_text()))
    only_for_alerts = {"harmonia_worker_start_time_seconds", "harmonia_cache_evicted_blobs_total"}
    assert alerts - seen <= only_for_alerts


@pytest.mark.slow
class TestPromtool:
    @pytest.fixture(autouse=True)
    def _promtool(self) -> None:
        if shutil.which("promtool") is None:
            pytest.skip("promtool, of Debian's package prometheus, is not installed")

    def promtool(self, *arguments: str) -> None:
        done = subprocess.run(
            ["promtool", *arguments], check=False, cwd=DASHBOARDS, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_rules_are_rules(self) -> None:
        self.promtool("check", "rules", "--lint-fatal", "alerts.yml")

    def test_what_must_fire_fires(self) -> None:
        self.promtool("test", "rules", "alerts_test.yml")

    def test_every_expression_of_the_dashboard_is_one(self, tmp_path: Path) -> None:
        rules = [
            {"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "5m").replace("$", "")}
            for number, text in enumerate(expressions(dashboard()))
        ]
        assert len(rules) > 30
        file = tmp_path / "rules.json"  # JSON is YAML
        file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        self.promtool("check", "rules", str(file))
