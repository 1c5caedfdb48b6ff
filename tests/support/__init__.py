"""What tests share: rows, scripted models, toy stages, servers, oracles."""
