"""Applies each file of migrations/ once, in the order of the names, in one transaction."""

import os
import pathlib

import psycopg2

FOLDER = pathlib.Path(__file__).parent / "migrations"

with psycopg2.connect(os.environ["DATABASE_URL"]) as database, database.cursor() as cursor:
    # Two copies that share a server must not migrate the same database at the same time.
    cursor.execute("select pg_advisory_xact_lock(7)")
    cursor.execute("create table if not exists migrations (name text primary key, applied timestamptz default now())")
    cursor.execute("select name from migrations")
    applied = {name for (name,) in cursor}
    for file in sorted(FOLDER.glob("*.sql")):
        if file.name not in applied:
            cursor.execute(file.read_text())
            cursor.execute("insert into migrations (name) values (%s)", (file.name,))
            print(f"applied {file.name}", flush=True)
print("migrations are up to date", flush=True)
