"""Marks new orders as done. The table contains the orders; the queue only wakes the worker."""

import os
import signal
import threading

import psycopg2
import redis

QUEUE = "orders"
stopping = threading.Event()


def fulfil(database, cache):
    """Marks all new orders as done, including those that an earlier worker did not finish."""
    with database, database.cursor() as cursor:
        cursor.execute(
            "update orders set state = 'done' where id in"
            " (select id from orders where state = 'new' for update skip locked) returning id, quantity"
        )
        done = cursor.fetchall()
    for order, quantity in done:
        print(f"order {order}: {quantity} packed", flush=True)
    if done:
        cache.delete("counts")


def main():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    database = psycopg2.connect(os.environ["DATABASE_URL"])
    cache = redis.Redis.from_url(os.environ["REDIS_URL"])
    print("worker ready", flush=True)
    fulfil(database, cache)
    while not stopping.is_set():
        # `brpop` cannot be interrupted, so its timeout limits how long a stop takes.
        if cache.brpop(QUEUE, timeout=1):
            fulfil(database, cache)
    print("worker stopped", flush=True)


main()
