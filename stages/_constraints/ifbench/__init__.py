"""56 of the 58 kinds of IFBench, by their groups.

Pyatkin et al. 2025, "Generalizing Verifiable Instruction Following" (arXiv:2507.02833). As in the
authors' code: names, arguments, and what is checked, with its corner cases. Ours: a blank text
follows none; Punkt is untrained. Not here, and therefore an error: `words:start_verb`, which needs
a tagger, and `words:odd_even_syllables`, which needs a dictionary of syllables.
"""

from stages._constraints.ifbench import (
    copies,
    counts,
    formats,
    questions,
    ratios,
    sentences,
    tables,
    words,
)

__all__ = ["copies", "counts", "formats", "questions", "ratios", "sentences", "tables", "words"]
