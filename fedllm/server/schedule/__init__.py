"""Schedules: who takes part in a round.

A schedule is ``cohort(clients, size, seed, round, **settings) -> names``, in name order, from
everybody's names, ``federation.clients_per_round`` (None for everybody) and the federation's seed.
"""
