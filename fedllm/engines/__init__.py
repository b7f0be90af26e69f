"""Engines drive the same round functions: all clients in one process, or one program per client."""
