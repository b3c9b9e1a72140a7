"""From test files and configuration to the catalogue of stages: facts of the syntax tree, never a model's guess."""
