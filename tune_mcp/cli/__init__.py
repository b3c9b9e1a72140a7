"""The verbs for people at a terminal."""
