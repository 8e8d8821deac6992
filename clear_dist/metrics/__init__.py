"""What a model's answers are worth, in numbers: pure functions of strings and log-probabilities.

Nothing here needs torch or a model. Every metric is computed per example first and averaged afterwards.
"""
