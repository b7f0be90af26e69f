"""Grouping: which clients share an adapter.

A grouping is ``group(clients, updates, sent, memory, **settings) -> (groups, memory)``, called at
the end of a round with everybody's names, the round's updates and the adapters they started from
(both by client, in name order), and its own memory. It returns client to group, for everybody, or
``{}`` where all are in one; a group's name is letters, digits, ``-`` and ``_``. A new group takes
over the adapter, and the plug-ins' memories, of the group that its first client (by name) was in.
"""
