"""Reports: tables of what was selected, and experiments on whether it helped."""
