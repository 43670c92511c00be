"""How an experiment is spelled, checked, completed and digested."""
