"""The inside of the sandbox: ``python -m fedllm.eval.jail`` runs one program and nothing else.

``kernel`` takes the process out of its surroundings, ``syscalls`` forbids what calculating never
needs. What is left splits in two: ``judge`` runs the tests, ``guest`` the code of the model; they
talk through ``wire`` alone. ``fedllm.eval.sandbox`` starts it and reads the verdict.

The modules need nothing but the standard library and are imported before confinement begins.
"""
