"""clear_dist: make vision-language models forget people, and prove that they forgot."""

__version__ = "0.1.0"
