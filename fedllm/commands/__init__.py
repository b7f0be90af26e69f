"""The subcommands of ``fedllm``, one file per group.

Each file has ``register(app)``. At the top it imports Typer and the standard library alone; what a
command needs is imported when it runs, so ``fedllm --help`` starts without torch.
"""
