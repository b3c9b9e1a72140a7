"""The same verbs for people at a terminal."""
