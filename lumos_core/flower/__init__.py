"""What knows Flower, beside the two apps: records, commands, fast starts. Begin with `commands`."""
