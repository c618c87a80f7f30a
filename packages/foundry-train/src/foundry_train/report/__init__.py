"""Reports over runs: one HTML file with every curve, and the comparison of two runs."""

from foundry_train.report.compare import Comparison, compare_runs
from foundry_train.report.page import write_report

__all__ = ["Comparison", "compare_runs", "write_report"]
