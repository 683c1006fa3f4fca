"""Commands write no report here: tests/report has the tests of those, which take a second each."""

import pytest


@pytest.fixture(autouse=True)
def _without_report(monkeypatch):
    monkeypatch.setattr("daskglm.cli.analyses.write_report", lambda folder, no_report: None)
