"""Engines drive the same round functions: all clients in this process, or one program per client."""
