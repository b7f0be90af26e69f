"""Share policies: which part of the adapter is trained and sent in a round.

A policy is ``share(factors, round, **settings) -> factors``, from those the rule lets clients train
(``"AB"``, ``"A"`` or ``"B"``) to those they do. What is not trained must come back as it was sent.
"""
