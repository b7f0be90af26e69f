"""Recipes that ship with fedllm: YAML files, run by name (``fedllm run demo``)."""
