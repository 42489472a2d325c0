"""The round loop, the nodes it asks, and what it makes of their deltas. Begin with `round_loop`."""
