"""What rows and files look like: the Arrow schemas that every stage agrees on.

Nothing here imports the engine or a stage, so that a program which only reads
Gristmill's output needs this package and no other.
"""
