"""Config: YAML files into frozen dataclasses."""
