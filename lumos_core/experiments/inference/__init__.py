"""What `lumos audit` measures: what a reply tells about histories. Begin with `leakage`."""
