"""LoRA adapters as data: PEFT directories in and out, and algebra on their factors.

An adapter is an ordered map from module name to ``LoRAFactors``; the update it means is
``scaling * B @ A`` per module. Nothing here needs more than torch, and nothing ever forms a
``d_out x d_in`` matrix.
"""
