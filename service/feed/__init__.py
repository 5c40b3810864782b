"""What follows a ledger from outside: who waits for its next events, and how they are told that there are some."""
