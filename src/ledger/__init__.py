"""The ablation ledger: rows, tables, pictures and leaderboard scores."""
