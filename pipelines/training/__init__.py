"""How the model is fitted: pairs, losses, schedule, checkpoints (torch)."""
