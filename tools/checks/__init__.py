"""House rules that no linter knows: ``python -m tools.checks`` fails when one is broken."""
