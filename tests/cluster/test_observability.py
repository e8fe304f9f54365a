"""The alerts of deploy/components/observability, as Prometheus evaluates them, and what people read when one comes."""

import re
import shutil
import subprocess
from pathlib import Path

import yaml

from tests.parts import program

RULES = yaml.safe_load(Path("deploy/components/observability/rules.yaml").read_text())["spec"]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]


def test_alerts_come_when_something_is_wrong_and_only_then(tmp_path):
    promtool = program("promtool", "Install Debian's package prometheus.")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    shutil.copy(Path(__file__).with_name("alerts.yaml"), tmp_path)

    done = subprocess.run([promtool, "test", "rules", tmp_path / "alerts.yaml"], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_come():
    tests = yaml.safe_load(Path(__file__).with_name("alerts.yaml").read_text())["tests"]
    seen = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}

    assert seen == {rule["alert"] for rule in ALERTS}


def test_every_alert_leads_to_its_heading_in_the_runbook():
    headings = re.findall(r"^## (\w+)$", Path("docs/runbook.md").read_text(), re.M)

    assert headings == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
