"""The feed: who follows a ledger is woken by what is committed, and reads it in the order of the log."""
