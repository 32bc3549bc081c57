"""The rules as promtool sees them: valid, and each alert tried firing and not firing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import ALERTS, CONFIG, PROMETHEUS, RECORDING, promtool, read_rules
from tests.support.readme import read_example, read_table
from tests.support.shared import REPOSITORY

CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))
ALERT_CASES = PROMETHEUS / "tests" / "alerts.yml"
NAMES = [rule["alert"] for rule in read_rules(ALERTS)]


def read_checks() -> list[dict[str, Any]]:
    """Return what the cases of the alerts expect."""
    tests = yaml.safe_load(ALERT_CASES.read_text())["tests"]
    return [check for test in tests for check in test["promql_expr_test"]]


def test_the_configuration_and_the_rules_it_names_are_valid() -> None:
    done = promtool("check", "config", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout


def test_no_rule_is_doubtful() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RECORDING, ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_cases_of_the_rules_hold(path: Path) -> None:
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_is_tried_firing_and_not_firing(name: str) -> None:
    checks = [check for check in read_checks() if f'"{name}"' in check["expr"]]
    assert any(check["exp_samples"] for check in checks)
    assert not all(check["exp_samples"] for check in checks)


@pytest.mark.parametrize("name", NAMES)
def test_the_cases_notice_an_alert_that_never_fires(name: str, tmp_path: Path) -> None:
    rules = yaml.safe_load(ALERTS.read_text())
    for rule in rules["groups"][0]["rules"]:
        if rule["alert"] == name:
            rule["expr"] = f"({rule['expr']}) and on () (vector(1) > 2)"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    cases = yaml.safe_load(ALERT_CASES.read_text()) | {"rule_files": [str(RECORDING), str(tmp_path / "alerts.yml")]}
    cases["tests"] = [
        test for test in cases["tests"] if any(f'"{name}"' in check["expr"] for check in test["promql_expr_test"])
    ]
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(cases))
    done = promtool("test", "rules", tmp_path / "cases.yml")
    assert done.returncode == 1
    assert name in done.stdout + done.stderr


@pytest.mark.parametrize("rule", read_rules(ALERTS), ids=lambda rule: rule["alert"])
def test_each_alert_says_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["for"]
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert len(rule["annotations"]["summary"]) < 120
    assert "\n" not in rule["annotations"]["runbook"]


def test_what_a_runbook_looks_for_in_the_log_is_what_the_service_writes() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "service").rglob("*.py"))
    quoted = {word for rule in read_rules(ALERTS) for word in re.findall(r'"([^"]+)"', rule["annotations"]["runbook"])}
    assert len(quoted) > 5
    assert [words for words in quoted if words not in source] == []


def test_the_settings_and_alerts_that_the_rules_name_exist() -> None:
    settings = (REPOSITORY / "README.md").read_text()
    text = ALERTS.read_text()
    assert set(re.findall(r"SONOTAG_[A-Z_]+", text)) <= set(re.findall(r"SONOTAG_[A-Z_]+", settings))
    assert set(re.findall(r"\bSonotag[A-Z]\w+", text)) == set(NAMES)


def test_the_readmes_own_alert_is_valid_beside_the_others(tmp_path: Path) -> None:
    own = tmp_path / "mine.yml"
    own.write_text(read_example("rules", "yaml"))
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RECORDING, ALERTS, own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [rule["alert"] for rule in read_rules(own) if rule["alert"] in NAMES] == []


def test_the_readme_lists_every_alert() -> None:
    assert [row[0].strip("`") for row in read_table("| alert | when |")] == NAMES
