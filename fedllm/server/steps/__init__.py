"""Server steps: what the server makes of the rule's result before it becomes the next adapter.

A step is ``step(sent, target, memory, **settings) -> (state, memory)``: from the adapter the
clients started from and what the rule (or the step before) gave, the next adapter, with its own
memory going in and out. ``target - sent`` is the round's progress. Steps that remember factors have
trait ``remembers_factors`` and are refused with a rule that is not ``gauge_stable``.
"""
