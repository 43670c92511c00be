"""Which settings are better: ladders of experiments and Optuna studies."""
