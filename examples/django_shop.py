"""A Django site: an order and the task that writes its invoice are stored together, or neither is.

    python django_shop.py                   # all of it: a server, a worker process, some requests
    python django_shop.py serve shop.db     # or each of them, in a terminal of its own
    python django_shop.py work shop.db

It is one file to be short. In a project of yours its parts are settings.py, models.py, tasks.py,
views.py, urls.py and a management command.
"""

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from wsgiref.simple_server import make_server

import anyio
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, connection, models, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from sitq import SyncTaskQueue, Worker, backend_from_url, task

P = ParamSpec("P")
R = TypeVar("R")
COMMAND, DATABASE = sys.argv[1:] or ("demo", "shop.db")

# settings.py

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATABASE,
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        }
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="for this example alone",
    TASKS_URL=f"sqlite:///{DATABASE}",  # the same file
)
django.setup()

# models.py


class Order(models.Model):
    item = models.CharField(max_length=100)

    class Meta:
        app_label = "shop"


# tasks.py

queue = SyncTaskQueue(settings.TASKS_URL)


def with_connections(function: Callable[P, R]) -> Callable[P, R]:
    """Close connections that became too old, as Django does around a request."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return wrapped


@task
@with_connections
def write_invoice(number: int) -> str:
    order = Order.objects.get(pk=number)
    return f"invoice of order {order.pk}: {order.item}"


# views.py


class SoldOut(Exception):
    pass


@require_POST
def place_order(request: HttpRequest, item: str) -> JsonResponse:
    try:
        with transaction.atomic():
            order = Order.objects.create(item=item)
            write = write_invoice.using(connection=connection.connection)
            handle = queue.enqueue(write, order.pk)
            if item == "moon":
                raise SoldOut  # and with the order the task is gone
    except SoldOut:
        return JsonResponse({"error": "sold out"}, status=409)
    return JsonResponse({"task": str(handle.id)}, status=202)


def show_invoice(request: HttpRequest, task: str) -> JsonResponse:
    result = queue.get_result(task, timeout=10)
    if result is None:
        return JsonResponse({"error": "not yet, or no such task"}, status=404)
    return JsonResponse({"state": result.state, "invoice": result.value})


def count(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"orders": Order.objects.count(), "tasks": sum(queue.counts().values())})


# urls.py

urlpatterns = [
    path("orders/<str:item>", place_order),
    path("invoices/<str:task>", show_invoice),
    path("counts", count),
]

# management/commands/work.py


def work() -> None:
    """Run tasks until a signal or Ctrl-C."""
    worker = Worker(backend_from_url(settings.TASKS_URL))
    anyio.run(functools.partial(worker.run, handle_signals=True))


# What `manage.py migrate` and `manage.py runserver` do.


def serve() -> None:
    if Order._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Order)
    queue.counts()  # the first use makes the tables of sitq
    with make_server("127.0.0.1", 0, get_wsgi_application()) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


# A browser.


def ask(url: str, method: str = "GET") -> Any:
    try:
        with urlopen(Request(url, method=method)) as answer:
            return json.load(answer)
    except HTTPError as error:
        with error:
            return json.load(error)


def demo() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__]
        database = str(Path(folder, "shop.db"))
        with (
            subprocess.Popen(
                [*command, "serve", database],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ) as server,
            subprocess.Popen([*command, "work", database]) as worker,
        ):
            try:
                site = server.stdout.readline().strip()
                placed = ask(f"{site}/orders/lamp", "POST")
                print(ask(f"{site}/invoices/{placed['task']}"))
                print(ask(f"{site}/orders/moon", "POST"))
                print(ask(f"{site}/counts"))
            finally:
                worker.terminate()
                server.terminate()


if __name__ == "__main__":
    {"demo": demo, "serve": serve, "work": work}[COMMAND]()
