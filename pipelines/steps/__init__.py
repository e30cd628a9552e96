"""The steps of the loop: one file is one Airflow task and one command."""
