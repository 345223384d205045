"""Graft quantum heads onto trained vision networks."""
