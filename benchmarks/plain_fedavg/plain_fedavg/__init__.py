"""Flower's own FedAvg over nodes that do next to nothing."""
