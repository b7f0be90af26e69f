"""Probes: each measures one way in which a trained adapter gives away its private shard.

The contract its files share. A probe runs where the private examples lie, on the client side. It is
given the model with the adapter active, members (examples trained on) and non-members (examples of
the same kind that were not), both as token ids. It returns counts, rates and intervals, never text,
so that its ``aggregate()`` may leave the client. Every rate stands next to two controls, the base
model on the same members and the adapter on the non-members, because a model that has learnt a
domain predicts its boilerplate without having memorised anybody's data: the finding is the excess.
Non-members must be drawn like the members (same topics, same style), or the second control measures
the difference between the two sets. A probe is tested in both directions: it finds a planted leak
and stays at chance without one.
"""
