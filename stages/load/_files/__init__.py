"""How files hold rows: from bytes to source positions."""
