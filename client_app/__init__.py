"""The Flower ClientApp: what runs on a node's machine, beside its private histories."""
