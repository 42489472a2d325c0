"""A trained model in use: its file, its recommendations, its export. Begin with `recommender`."""
