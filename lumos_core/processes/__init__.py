"""Child processes that end with their parent, however it ends. Begin with `children`.

Imports the errors only; knows neither Flower nor LUMOS.
"""
