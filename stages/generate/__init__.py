"""New records written by a language model.

The steps are those of the papers and of their code, as each module says; the wording of the
prompts is our own. `stages NAME --prompts` prints them with their names and variables, and a
recipe puts the authors' originals in their place: `prompts: {NAME: FILE}`.
"""
