"""Who may speak on the bus, and as whom: keys, accounts, credentials and what servers believe."""
