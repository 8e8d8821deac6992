"""From a model's answers to records, and from records to a summary.

``predict`` asks a Predictor everything once, ``records`` keeps what it said, ``summary`` averages it,
``control`` prepares the shuffled-pictures check, ``distributed`` cuts the work for several ranks.
"""
