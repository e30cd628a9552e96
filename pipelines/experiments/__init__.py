"""Plots and reports that a run leaves in MLflow."""
