"""The source that the settings ask for."""

from pipelines.config import SourceConfig
from pipelines.errors import ConfigError
from pipelines.sources.base import Source
from pipelines.sources.completejourney import CompleteJourneySource
from pipelines.sources.tables import TablesSource


def build_source(config: SourceConfig) -> Source:
    """Return the source that `config` names; no table is read.

    Raises:
        ConfigError: the mapping file is not set or wrong.
    """
    if config.kind == "completejourney":
        return CompleteJourneySource(replay_until=config.replay_until)
    if config.mapping is None:
        raise ConfigError(
            "The source `tables` needs a mapping file: set source.mapping to the YAML file that maps your columns "
            "(docs/your-own-data.md shows one), or source.kind to `completejourney` for the demo data."
        )
    return TablesSource(config.mapping)
