"""A server that adds numbers, and a client that times it."""
