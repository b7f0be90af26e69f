"""An experiment from recipe to report: the outermost layer, where all parts meet.

``data`` makes shards, ``augmentation`` widens them, ``arms`` says what is compared, ``evaluation``
scores, ``summary`` collects the numbers. Every stage leaves its result in the run directory and is
skipped when the result is there, so a run that was killed anywhere goes on with the same command.
"""

from fedllm.experiment.run import hand_out, prepare_run, run_experiment

__all__ = ["hand_out", "prepare_run", "run_experiment"]
