"""Whether a dataset in CLEAR's layout keeps its promises: every fault named by kind and place, none ends the search."""

from .check import check_directory as check_directory
from .findings import Finding as Finding
from .findings import Report as Report
