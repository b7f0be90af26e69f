"""Benchmarks, declared: where a task's rows lie, how a row becomes a question, how it is scored.

One file per family; each names its prompts' and parsers' source. A task is data (``spec.Task``) and
knows nothing of models or files being written. ``registry`` names them all; ``custom`` reads a
user's own from YAML or Python; ``files`` finds and reads the rows.
"""
