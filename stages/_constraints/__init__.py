"""Constraints on an answer that a program can check: kind, typed arguments, wordings, checker.

- `constraint`: what all kinds share: arguments, strict and loose checking, wordings, the table of
  kinds. A kind that is not in it is an error, never a pass;
- `units`: words, sentences, paragraphs and the language of a text;
- `ifeval`: the 25 kinds of IFEval (Zhou et al. 2023, "Instruction-Following Evaluation for Large
  Language Models", arXiv:2311.07911);
- `ifbench`: 56 of the 58 kinds of IFBench (Pyatkin et al. 2025, "Generalizing Verifiable
  Instruction Following", arXiv:2507.02833);
- `lengths`: CoDI-Eval's modes of length, and Ruler's length tokens;
- `stored`: constraints as records carry them in `extra`;
- `conflicts`: which two constraints cannot hold of one text.

Names of kinds and arguments, and what is checked, are as in the authors' code, so that their files
can be read and their labels reproduced. Wordings are ours.
"""
