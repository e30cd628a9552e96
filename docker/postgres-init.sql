-- Runs once, when the volume is empty: Airflow's database is made by the image, MLflow's here.
CREATE DATABASE mlflow;
