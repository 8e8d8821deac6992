"""The report of a run: one self-contained HTML page and the same in Markdown, from the run's files alone.

``build.report(run_dir)`` is the entry; it needs no model and nothing of the network.
"""
