"""The engine: knows files, graphs and models, and nothing about instructions."""
