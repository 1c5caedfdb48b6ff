"""The parts of the report page: each reads a snapshot and gives what the template shows.

Nothing here writes markup. Texts of rows reach the page in two ways only: through the
template, which escapes them, and as compressed JSON, which the script shows as text.
"""
