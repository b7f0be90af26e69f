"""Codecs: what a client does to its trained adapter before it is sent, in order.

A codec is ``codec(state, sent, memory, **settings) -> (state, memory)``, called at the client with
the trained adapter, the one it started from, and the codec's memory at that client (what was left
out may be added next time). The server sees the result and nothing else.
"""
