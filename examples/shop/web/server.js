// The shop's page, rendered on the server from the API's data, so that one request tests all services.
"use strict";
const http = require("node:http");

const api = process.env.PDEV_INTERNAL_URL_API || "http://127.0.0.1:8000";
const branch = process.env.BRANCH || "no branch";
const port = Number(process.env.PORT || 3000);
const host = process.env.HOST || "0.0.0.0";

const escape = (text) =>
  String(text).replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]);

async function get(path) {
  const response = await fetch(api + path, { signal: AbortSignal.timeout(5000) });
  if (!response.ok) throw new Error(`${path} returned ${response.status}: ${(await response.text()).trim()}`);
  return response.json();
}

async function page() {
  const [products, { orders, counts, payments }] = await Promise.all([get("/api/products"), get("/api/orders")]);
  const shelf = products.map(
    (product) => `<li>${escape(product.name)}, ${(product.cents / 100).toFixed(2)} €
      <form method="post" action="/api/orders">
        <input type="hidden" name="product" value="${product.id}">
        <input type="number" name="quantity" value="1" min="1" max="99"><button>Order</button>
      </form></li>`,
  );
  const list = orders.map((order) => `<li>#${order.id}: ${order.quantity} × ${escape(order.product)}, ${order.state}</li>`);
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>shop (${escape(branch)})</title>
<h1>shop, branch ${escape(branch)}</h1>
<ul id="products">${shelf.join("\n")}</ul>
<p>${counts.new || 0} new, ${counts.done || 0} done, payments ${escape(payments)}</p>
<ul id="orders">${list.join("\n")}</ul>
</html>
`;
}

async function respond(path) {
  if (path === "/livez" || path === "/readyz") return [200, "text/plain", "ok\n"];
  if (path !== "/") return [404, "text/plain", `not found: ${path}\n`];
  try {
    return [200, "text/html; charset=utf-8", await page()];
  } catch (error) {
    console.error(`page: ${error.message}`);
    return [502, "text/plain", `the API does not answer: ${error.message}\n`];
  }
}

const server = http.createServer(async (request, response) => {
  const path = request.url.split("?")[0];
  const [status, type, body] = await respond(path);
  response.writeHead(status, { "Content-Type": type, "Content-Length": Buffer.byteLength(body) });
  response.end(request.method === "HEAD" ? undefined : body);
  if (path !== "/livez" && path !== "/readyz") console.log(`${request.method} ${path} ${status}`);
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => {
    console.log("web stopping");
    server.close();
    // Idle keep-alive connections would otherwise keep the process running.
    server.closeIdleConnections();
  });
}
server.listen(port, host, () => console.log(`web listening on ${host}:${port}`));
