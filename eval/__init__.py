"""Measuring what a model knows, can do and gives away; runs on the client side of a run.

``inference`` is the one batched engine; ``checkers`` decide whether a response is right;
``scoring`` puts both together for a shard; ``stats`` gives every number its interval; ``probes``
measure leakage; ``report`` shows a whole run. Per-sample records stay with the client whose
examples they describe; only aggregates leave.
"""
