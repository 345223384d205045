"""The published systems as recipes over the same pieces."""
