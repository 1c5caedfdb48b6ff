"""Quality, difficulty and likelihood of rows: columns, never decisions.

Judges ask in our own words; a recipe puts the authors' originals in their place with
`prompts: {NAME: FILE}` (`stages NAME --prompts` prints the names and variables).
"""
