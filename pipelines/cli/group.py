"""The `headrace` command itself: its help, and the order in which commands are listed."""

import click

EPILOG = """
\b
Places and secrets come from the environment:
  HEADRACE_HOME           folder of everything it writes (default: .headrace)
  HEADRACE_CONFIG         settings: a YAML file, or `demo`
  HEADRACE_PSEUDONYM_KEY  secret behind the user pseudonyms (default: made once)
  HEADRACE_EVENT_LOG      kafka://host:9092/topic (default: below the home)
  HEADRACE_API_KEY        key that may serve and write (or see `headrace keys`; none: loopback only)
"""


PERSON_ORDER = (
    "loop",
    "demo",
    "serve",
    "airflow",
    "mlflow",
    "models",
    "rollback",
    "shadow",
    "canary",
    "compress",
    "source",
    "quarantine",
    "keys",
    "bench",
)
STEP_ORDER = (
    "ingest_tables",
    "validate_tables",
    "build_features",
    "materialize_features",
    "embed_new_items",
    "build_training_set",
    "check_leaks",
    "finetune_model",
    "compress_model",
    "evaluate_model",
    "promote_challenger",
    "build_bento",
    "deploy_bundle",
    "prune_bundles",
    "rollback_champion",
    "audit_skew",
)


class LoopOrder(click.Group):
    """Lists what a person starts with first, then the steps in the order of the loop."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands."""
        others = [name for name in self.commands if name not in {*PERSON_ORDER, *STEP_ORDER}]
        return [*PERSON_ORDER, *others, *STEP_ORDER]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the two lists of commands."""
        names = self.list_commands(ctx)
        for title, wanted in (("Commands", False), ("Steps, in the order of the loop", True)):
            rows = [
                (name, self.commands[name].get_short_help_str(limit=200))
                for name in names
                if (name in STEP_ORDER) is wanted
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(
    cls=LoopOrder, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(package_name="headrace")
def cli() -> None:
    """Headrace: search and recommendations that keep themselves fresh.

    \b
    Start here:
      headrace demo               run the loop on the default data once, then serve
      headrace loop               refresh, train, evaluate, promote and deploy, through Airflow
      headrace serve              answer on http://127.0.0.1:3000
      headrace STEP --help        what one step does
    """
