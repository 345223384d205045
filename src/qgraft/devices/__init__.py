"""The same circuit on PennyLane: its qnodes in, and circuits out to its devices and drawings."""
