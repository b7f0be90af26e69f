"""Weight policies: from what is known of each client to its coefficient.

A policy is ``policy(cohort, **settings) -> {client: number}`` on a
:class:`~fedllm.aggregation.weights.cohort.Cohort`; ``catalogue.py`` names them. ``aggregate``
divides by the sum, and a client without a positive weight is left out. One with trait ``remembers``
is ``policy(cohort, memory, **settings) -> (weights, memory)``.
"""
