"""run, publish, report, site."""

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


def site_command(options: argparse.Namespace) -> None:
    from labutils.publish.site import build_site

    page = build_site()
    size = sum(path.stat().st_size for path in page.parent.rglob("*.*"))
    print(f"{size / 1e6:.1f} MB. Open {page.as_uri()}")
