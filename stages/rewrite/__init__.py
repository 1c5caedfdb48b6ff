"""Instructions and answers made harder, better or different.

The wording of the prompts is our own; a recipe puts the authors' originals in their place with
`prompts: {NAME: FILE}` (`stages NAME --prompts` prints the names and variables).
"""
