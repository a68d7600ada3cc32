"""Output for people: patches in a terminal or an HTML page, tables, reports of runs, plots."""
