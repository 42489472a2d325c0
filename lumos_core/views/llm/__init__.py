"""The language model that writes views: found, loaded, asked. Begin with `load`."""
