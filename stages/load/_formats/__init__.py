"""The formats of rows: from a row to conversations or pairs."""
