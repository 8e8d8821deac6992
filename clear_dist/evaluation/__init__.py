"""From a model's answers to records, and from records to a summary.

``predict`` asks a Predictor everything in one pass, ``records`` keeps what it said, ``summary`` averages it;
``aftermath`` labels what is said about the forgotten, ``clip`` scores how it fits the picture, ``membership`` compares
forget with holdout; ``control`` prepares the shuffled-pictures check, ``distributed`` cuts the work for several ranks.
"""
