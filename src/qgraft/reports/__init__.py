"""Turn a finished run directory into tables, figures and one self-contained HTML page."""

from qgraft.reports.html import write_report
from qgraft.reports.tables import terminal_table

__all__ = ["terminal_table", "write_report"]
