"""A circuit and its numbers in, expectation values out."""
