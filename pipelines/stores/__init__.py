"""The only code that talks to Feast, MLflow and files."""
