"""The transformations behind every feature view, as DuckDB SQL."""
