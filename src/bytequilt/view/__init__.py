"""What people look at: patches in a terminal or a page, the report of a run, its curves."""
