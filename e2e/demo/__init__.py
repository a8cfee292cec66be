"""``make demo``: one real rollout and one rollback, to watch."""
