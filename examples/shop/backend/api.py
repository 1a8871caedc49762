"""The shop's API: products and orders in Postgres, counts cached in Redis, new orders queued for the worker."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import psycopg2
import psycopg2.extras
import redis

CACHE = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=2, socket_connect_timeout=2)


class InvalidRequest(Exception):
    """The request is invalid; the text is the reason."""


def query(text, values=()):
    """Opens a connection for each request, so a restart of the database needs no reconnection code."""
    database = psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=2)
    try:
        with database, database.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(text, values)
            return [dict(row) for row in cursor]
    finally:
        database.close()


def counts():
    cached = CACHE.get("counts")
    if cached is None:
        rows = query("select state, count(*) as orders from orders group by state")
        cached = json.dumps({row["state"]: row["orders"] for row in rows})
        CACHE.setex("counts", 5, cached)
    return json.loads(cached)


def payments():
    """Reports only whether a key exists, because the key must not leave this process."""
    try:
        with open(os.environ.get("PAYMENT_KEY_FILE", ""), encoding="utf-8") as file:
            return "on" if file.read().strip() else "off"
    except OSError:
        return "off"


def add_order(fields):
    try:
        product, quantity = int(fields["product"]), int(fields.get("quantity", 1))
    except (KeyError, TypeError, ValueError):
        raise InvalidRequest("`product` and `quantity` must be whole numbers") from None
    try:
        order = query(
            "insert into orders (product_id, quantity) values (%s, %s) returning id, state", (product, quantity)
        )[0]
    except psycopg2.IntegrityError:
        raise InvalidRequest(f"there is no product {product}, or {quantity} is not between 1 and 99") from None
    CACHE.delete("counts")
    CACHE.lpush("orders", order["id"])
    return order


def orders():
    rows = query(
        "select orders.id, products.name as product, quantity, state from orders"
        " join products on products.id = product_id order by orders.id desc limit 20"
    )
    return {"orders": rows, "counts": counts(), "payments": payments()}


def ready():
    query("select 1 from products limit 1")
    CACHE.ping()
    return "ok"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self):
        routes = {
            "/livez": lambda: "ok",
            "/readyz": ready,
            "/api/products": lambda: query("select id, name, cents from products order by id"),
            "/api/orders": orders,
        }
        path = urlsplit(self.path).path
        if path not in routes:
            return self.respond(404, {"error": f"not found: {path}"})
        try:
            return self.respond(200, routes[path]())
        except (psycopg2.Error, redis.RedisError) as error:
            return self.respond(503, {"error": str(error).strip()})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if urlsplit(self.path).path != "/api/orders":
            return self.respond(404, {"error": "send orders to /api/orders"})
        form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        try:
            order = add_order({k: v[0] for k, v in parse_qs(body.decode()).items()} if form else json.loads(body))
        except (InvalidRequest, ValueError, AttributeError) as error:
            return self.respond(400, {"error": str(error)})
        except (psycopg2.Error, redis.RedisError) as error:
            return self.respond(503, {"error": str(error).strip()})
        # Redirect a browser that sent the form to the page; return the order to a program.
        return self.respond(303, order, {"Location": "/"}) if form else self.respond(201, order)

    def respond(self, status, value, headers=None):
        body = (json.dumps(value) + "\n").encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        if self.path not in ("/livez", "/readyz"):
            print(format % args, flush=True)


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main():
    address = (os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8000")))
    server = Server(address, Handler)
    for number in (signal.SIGTERM, signal.SIGINT):
        # `shutdown` waits for the loop that this handler interrupts, so call it from another thread.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"api listening on {address[0]}:{address[1]}", flush=True)
    server.serve_forever()
    print("api stopped", flush=True)


main()
