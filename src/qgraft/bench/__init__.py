"""Workloads and peers in, measured ratios out: what `qgraft bench` runs."""
