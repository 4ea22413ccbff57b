"""Measured rates, at the end of the run where a person sees them."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    rates = [value for report in reports for name, value in report.user_properties if name == "rate"]
    if rates:
        terminalreporter.section("rates of the gate")
        for line in rates:
            terminalreporter.line(line)
