"""What a job will need before anything runs: memory by part, communication, time, and what to change.

Numbers only, worked out from a model on the meta device; no GPU, no weight, no file is touched.
"""
