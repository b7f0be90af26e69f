"""Domain benchmarks: every question of every task asked of every arm, scored, compared, reported.

The data flow::

    tasks, arms ──► evaluate ──► ask ──► records ──► outcome, pairs ──► summary ──► page, report
                                 engine, prompts     per-arm numbers,
                                 programs            paired tests

Records (one line per question) are all that statistics see; everything right of them can be made
again without a model.
"""
