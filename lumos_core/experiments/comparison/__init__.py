"""What `lumos compare` measures: variants under equal conditions. Begin with `compare`."""
