"""Recipes: each command from top to bottom. ``run(config)`` is what launchers and ``clear-dist`` call."""

import os

import torch

# DeepSpeed picks its accelerator when it is first imported (transformers and peft do so on their own); saying it here
# keeps it from guessing, and from warning that it did.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# Libraries' own progress bars and chatter say nothing about a run; ours do.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
