"""All that knows Flower, beside the two apps: records, commands, start-up. Begin with `commands`."""
