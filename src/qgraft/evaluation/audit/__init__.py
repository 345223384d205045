"""What is wrong with a data set and its splits, before anybody believes a score.

Every check is a function from evidence to findings; a finding says what was found, how bad it
is, where, and what to do. Clean data gives none. docs/audit.md lists every check.
"""

from __future__ import annotations

from qgraft.evaluation.audit.checks import audit_images, audit_parts, audit_split
from qgraft.evaluation.audit.dataset import Splitting, audit_data
from qgraft.evaluation.audit.findings import Finding, Severity

__all__ = [
    "Finding",
    "Severity",
    "Splitting",
    "audit_data",
    "audit_images",
    "audit_parts",
    "audit_split",
]
