"""A dataset in CLEAR's layout, made from text about people, stage by stage (arXiv 2410.18057, 4.1 and Appendix B)."""
