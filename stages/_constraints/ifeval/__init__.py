"""The 25 kinds of IFEval (Zhou et al. 2023, arXiv:2311.07911), by what they look at.

As in the authors' code: names, arguments, and what is checked, with its corner cases. Ours: a
blank text follows none; keywords are texts, not regular expressions; languages are py3langid's
and not langdetect's, whose answers depend on a seed; `en:` before a kind is not read.
"""

from stages._constraints.ifeval import detectable, keywords, lengths, whole

__all__ = ["detectable", "keywords", "lengths", "whole"]
