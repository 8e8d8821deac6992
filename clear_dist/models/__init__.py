"""Models: one small interface over model families, their tokens and pixels, LoRA, loading and making.

The only importer of ``transformers`` and ``peft``. Symbols: R rows of a packed batch, L tokens of a row,
P pictures, D hidden size, V vocabulary.
"""
