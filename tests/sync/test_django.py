"""The workers of the page about Django, in a project made of it, and Django's connections."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from sitq import Registry, SyncTaskQueue

from ..postgres import server_url

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "django.md").read_text(encoding="utf-8")
PATIENCE = 30.0
registry = Registry()


@registry.task(name="shop.tasks.write_invoice")
def write_invoice(number: int) -> str:
    """Runs in the project."""
    raise NotImplementedError


def block(language: str, with_text: str) -> str:
    """A block of the page."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    [found] = [text for text in blocks if with_text in text]
    return found


FILES = {
    "manage.py": """
import os, sys
from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
execute_from_command_line(sys.argv)
""",
    "mysite/__init__.py": "",
    "mysite/settings.py": """
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}}
INSTALLED_APPS = ["shop"]
SECRET_KEY = "of this test alone"
TASKS_URL = "sqlite:///site.db"
""",
    "mysite/worker.py": block("text", "DJANGO_SETTINGS_MODULE"),
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models

class Order(models.Model):
    item = models.CharField(max_length=100)
""",
    "shop/tasks.py": """
from shop.models import Order
from sitq import task

@task
def write_invoice(number):
    return f"invoice of order {number}: {Order.objects.get(pk=number).item}"
""",
    "shop/management/__init__.py": "",
    "shop/management/commands/__init__.py": "",
    "shop/management/commands/work.py": "from django.conf import settings\n"
    + block("python", "class Command"),
}
WORKERS = {
    "command": ["manage.py", "work"],
    "command line": ["-m", "sitq", "worker", "mysite.worker:worker"],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-W", "error", "manage.py", "migrate", "--run-syncdb", "-v", "0"]
    subprocess.run(command, cwd=tmp_path, check=True)
    with closing(sqlite3.connect(tmp_path / "site.db")) as connection, connection:
        connection.execute("INSERT INTO shop_order (item) VALUES ('lamp')")
    return tmp_path


@pytest.mark.parametrize("worker", WORKERS)
def test_its_workers_run_tasks(project: Path, worker: str) -> None:
    with SyncTaskQueue(f"sqlite:///{project / 'site.db'}") as queue:
        handle = queue.enqueue(write_invoice, 1)
        with subprocess.Popen(
            [sys.executable, "-W", "error", *WORKERS[worker]],
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert handle.result(PATIENCE) == "invoice of order 1: lamp"
                process.terminate()
                _, errors = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


ON_POSTGRESQL = """
import sys
import django
from django.conf import settings

_, host, user, name, url, options = sys.argv
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": host,
            "USER": user,
            "NAME": name,
            "OPTIONS": {options: True} if options else {},
        }
    }
)
django.setup()
from django.db import connection, transaction
from sitq import SyncTaskQueue, task

@task
def echo(value):
    return value

with SyncTaskQueue(url) as queue:
    with transaction.atomic():
        mine = echo.using(connection=connection.connection)
        handles = [queue.enqueue(mine, 1), *queue.enqueue_many([mine.using(key="k").call(2)])]
    try:
        with transaction.atomic():
            queue.enqueue(echo.using(connection=connection.connection), 3)
            raise LookupError
    except LookupError:
        pass
    assert [task.id for task in queue.find()] == [handle.id for handle in handles]
connection.close()
if options == "pool":
    connection.close_pool()
"""


@pytest.mark.parametrize("options", ["", "server_side_binding", "pool"])
def test_its_connections_to_postgresql(postgres_url: str, options: str) -> None:
    with psycopg.connect(server_url()) as connection:
        info = connection.info
        where = [info.host, info.user, info.dbname]
        environment = {**os.environ, "PGPORT": str(info.port), "PGPASSWORD": info.password}
    program = [sys.executable, "-W", "error", "-c", ON_POSTGRESQL, *where, postgres_url, options]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
