"""run, publish, report. They import no torch: notebooks run in processes of their own."""

import argparse

from labutils.paths import outputs_dir
from labutils.store.files import writable


def run_command(options: argparse.Namespace) -> int:
    """Execute notebooks; the status is 1 if any failed."""
    from labutils.publish.execution import run_series

    writable(outputs_dir())
    return min(run_series(options.notebooks), 1)


def publish_command(options: argparse.Namespace) -> None:
    from labutils.publish.publication import publish

    print(f"published: {', '.join(publish())}")


def report_command(options: argparse.Namespace) -> None:
    from labutils.publish.publication import write_pages

    print(f"Open {write_pages().as_uri()}")
