"""The Flower ServerApp: the round loop's home on the operator's machine."""
