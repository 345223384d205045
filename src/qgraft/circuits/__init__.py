"""Circuits as data: gates, operations, observables and the named builders."""
