"""YAML files of people and of ``discover``, read into typed, frozen models."""
