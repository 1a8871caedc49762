//! The OpenAPI 3.1 document, generated from the table of routes and the schemas of the wire types.

use axum::Json;
use protocol::schema_of;
use schemars::JsonSchema;
use serde_json::{Map, Value, json};

pub(super) async fn get_document() -> Json<Value> {
    Json(document())
}

struct Route {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    body: Option<&'static str>,
    response: (&'static str, &'static str, Option<&'static str>),
}

const fn route(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    body: Option<&'static str>,
    response: (&'static str, &'static str, Option<&'static str>),
) -> Route {
    Route { method, path, summary, body, response }
}

const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";

const ROUTES: &[Route] = &[
    route("get", "/v1/agent", "The running agent and its version", None, ("200", JSON, Some("AgentInfo"))),
    route(
        "post",
        "/v1/agent/stop",
        "Drain and exit, as after a first SIGTERM; previews keep running",
        None,
        ("202", "", None),
    ),
    route("get", "/v1/openapi.json", "This document", None, ("200", JSON, None)),
    route(
        "get",
        "/v1/events",
        "Stream all events from now on; resumes after `Last-Event-ID`",
        None,
        ("200", EVENT_STREAM, Some("Event")),
    ),
    route(
        "post",
        "/v1/locate",
        "Find the preview of a folder; creates nothing",
        Some("LocateRequest"),
        ("200", JSON, Some("LocateReply")),
    ),
    route(
        "post",
        "/v1/plan",
        "Show the steps of `up` and their causes; changes nothing",
        Some("UpRequest"),
        ("200", JSON, Some("PlanReply")),
    ),
    route(
        "post",
        "/v1/up",
        "Start a preview; streams events until it is ready or failed. Closing the stream does not stop the operation",
        Some("UpRequest"),
        ("200", EVENT_STREAM, Some("Event")),
    ),
    route("get", "/v1/identities", "All identities and their status", None, ("200", JSON, Some("IdentityStatus[]"))),
    route(
        "post",
        "/v1/identities/{identity}/check",
        "Request a credential from the source, return the identity's status, and issue nothing",
        None,
        ("200", JSON, Some("IdentityStatus")),
    ),
    route(
        "put",
        "/v1/identities/{identity}/secret",
        "Store the secret (the raw body) of a `static` identity in the vault",
        None,
        ("204", "", None),
    ),
    route(
        "post",
        "/v1/identities/{identity}/login",
        "Sign in; streams one LoginEvent per line. Closing the stream cancels the login",
        Some("LoginRequest"),
        ("200", "application/x-ndjson", Some("LoginEvent")),
    ),
    route("delete", "/v1/identities/{identity}/login", "Sign out: delete the stored login", None, ("204", "", None)),
    route(
        "get",
        "/v1/approvals",
        "List which services may act as which identities",
        None,
        ("200", JSON, Some("ApprovalView[]")),
    ),
    route("get", "/v1/approvals/waiting", "Pending requests", None, ("200", JSON, Some("PendingApprovalView[]"))),
    route("get", "/v1/approvals/{code}", "The request with this code", None, ("200", JSON, Some("ApprovalView"))),
    route(
        "post",
        "/v1/approvals/{code}",
        "Approve the request; refused for the requesting programs and their descendants",
        None,
        ("200", JSON, Some("ApprovalView")),
    ),
    route(
        "post",
        "/v1/approvals/revoke",
        "Revoke approvals",
        Some("RevokeRequest"),
        ("200", JSON, Some("RevokeReply")),
    ),
    route("get", "/v1/sessions", "The sessions of coding agents", None, ("200", JSON, Some("SessionView[]"))),
    route(
        "post",
        "/v1/sessions",
        "Begin a session: programs that the caller starts get restricted access to the user's identities",
        Some("SessionRequest"),
        ("200", JSON, Some("SessionView")),
    ),
    route("delete", "/v1/sessions/{session}", "End a session and its programs", None, ("204", "", None)),
    route(
        "post",
        "/v1/credentials",
        "Issue a credential, as the raw bytes that its tool reads",
        Some("CredentialRequest"),
        ("200", "application/octet-stream", None),
    ),
    route(
        "post",
        "/v1/credentials/rejected",
        "Report that a service rejected a credential: the next request gets a new one",
        Some("CredentialRequest"),
        ("204", "", None),
    ),
    route("get", "/v1/previews", "All previews", None, ("200", JSON, Some("PreviewStatus[]"))),
    route(
        "post",
        "/v1/previews/discover",
        "All previews, also those that run although their record was lost; asks each runtime",
        Some("DiscoverRequest"),
        ("200", JSON, Some("PreviewStatus[]")),
    ),
    route("get", "/v1/previews/{preview}", "One preview", None, ("200", JSON, Some("PreviewStatus"))),
    route(
        "post",
        "/v1/previews/{preview}/down",
        "Take it down; data volumes are kept unless `volumes` is set",
        Some("DownRequest"),
        ("200", EVENT_STREAM, Some("Event")),
    ),
    route(
        "post",
        "/v1/previews/{preview}/restart",
        "Stop and start units unchanged",
        Some("RestartRequest"),
        ("200", EVENT_STREAM, Some("Event")),
    ),
    route(
        "post",
        "/v1/previews/{preview}/stop",
        "Stop units; they remain stopped until they are started again",
        Some("StopRequest"),
        ("200", EVENT_STREAM, Some("Event")),
    ),
    route(
        "get",
        "/v1/previews/{preview}/wait",
        "Wait until the preview is ready, failed or down; `timeout_ms`",
        None,
        ("200", JSON, Some("PreviewStatus")),
    ),
    route(
        "get",
        "/v1/previews/{preview}/logs",
        "Merged logs, one LogEntry per line; `units`, `follow`, `since`, `tail`",
        None,
        ("200", "application/x-ndjson", Some("LogEntry")),
    ),
    route(
        "post",
        "/v1/previews/{preview}/exec",
        "Run a command inside a unit; upgrades to frames (`Upgrade: pdev-exec/1`)",
        Some("ExecRequest"),
        ("101", "", None),
    ),
    route(
        "post",
        "/v1/previews/{preview}/secrets",
        "Copy secrets of the vault to this preview until `down`; returns the names that were found",
        Some("DeliverSecretsRequest"),
        ("200", JSON, None),
    ),
    route(
        "put",
        "/v1/previews/{preview}/secrets/{name}",
        "Store a secret (the raw body) for this preview until `down`",
        None,
        ("204", "", None),
    ),
    route(
        "delete",
        "/v1/previews/{preview}/secrets/{name}",
        "Delete a secret of this preview",
        None,
        ("204", "", None),
    ),
];

#[must_use]
pub fn document() -> Value {
    let mut schemas = Map::new();
    add_schema::<protocol::agent_info::AgentInfo>("AgentInfo", &mut schemas);
    add_schema::<Vec<protocol::status::PreviewStatus>>("PreviewStatus[]", &mut schemas);
    add_schema::<protocol::status::LocateReply>("LocateReply", &mut schemas);
    add_schema::<protocol::plan::PlanReply>("PlanReply", &mut schemas);
    add_schema::<protocol::Event>("Event", &mut schemas);
    add_schema::<protocol::Problem>("Problem", &mut schemas);
    add_schema::<protocol::request::LocateRequest>("LocateRequest", &mut schemas);
    add_schema::<protocol::request::DiscoverRequest>("DiscoverRequest", &mut schemas);
    add_schema::<protocol::request::UpRequest>("UpRequest", &mut schemas);
    add_schema::<protocol::request::DownRequest>("DownRequest", &mut schemas);
    add_schema::<protocol::request::RestartRequest>("RestartRequest", &mut schemas);
    add_schema::<protocol::request::StopRequest>("StopRequest", &mut schemas);
    add_schema::<protocol::request::DeliverSecretsRequest>("DeliverSecretsRequest", &mut schemas);
    add_schema::<protocol::request::LogEntry>("LogEntry", &mut schemas);
    add_schema::<protocol::exec::ExecRequest>("ExecRequest", &mut schemas);
    add_schema::<Vec<protocol::identity::IdentityStatus>>("IdentityStatus[]", &mut schemas);
    add_schema::<protocol::identity::CredentialRequest>("CredentialRequest", &mut schemas);
    // The item's schema is in the document now; a list is written inline where a route returns it.
    schemas.remove("PreviewStatus[]");
    add_schema::<protocol::identity::LoginRequest>("LoginRequest", &mut schemas);
    add_schema::<protocol::identity::LoginEvent>("LoginEvent", &mut schemas);
    schemas.remove("IdentityStatus[]");
    add_schema::<protocol::approval::ApprovalView>("ApprovalView", &mut schemas);
    add_schema::<protocol::approval::PendingApprovalView>("PendingApprovalView", &mut schemas);
    add_schema::<protocol::session::SessionRequest>("SessionRequest", &mut schemas);
    add_schema::<protocol::session::SessionView>("SessionView", &mut schemas);
    add_schema::<protocol::approval::RevokeRequest>("RevokeRequest", &mut schemas);
    add_schema::<protocol::approval::RevokeReply>("RevokeReply", &mut schemas);
    let mut paths = Map::new();
    for route in ROUTES {
        let entry = paths.entry(route.path).or_insert_with(|| json!({}));
        entry[route.method] = operation_object(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "pdev agent",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Served on a unix socket to its own user only. Errors are RFC 9457 problem documents with a stable `code`.",
        },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// Adds the schema of a type and of all types it refers to. References are rewritten to point into the document.
fn add_schema<T: JsonSchema>(name: &str, schemas: &mut Map<String, Value>) {
    let mut root = schema_of::<T>();
    let definitions = root.as_object_mut().and_then(|root| root.remove("$defs"));
    if let Some(Value::Object(definitions)) = definitions {
        for (key, value) in definitions {
            schemas.entry(key).or_insert_with(|| rebase_references(value));
        }
    }
    if let Some(root) = root.as_object_mut() {
        root.remove("$schema");
    }
    schemas.insert(name.to_owned(), rebase_references(root));
}

fn rebase_references(value: Value) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix("#/$defs/") {
            Some(name) => Value::String(format!("#/components/schemas/{name}")),
            None => Value::String(text),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(rebase_references).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(key, value)| (key, rebase_references(value))).collect())
        }
        other => other,
    }
}

fn schema_reference(name: &str) -> Value {
    match name.strip_suffix("[]") {
        Some(item) => json!({ "type": "array", "items": schema_reference(item) }),
        None => json!({ "$ref": format!("#/components/schemas/{name}") }),
    }
}

fn operation_object(route: &Route) -> Value {
    let (status, media, schema) = route.response;
    let mut success = json!({ "description": "success" });
    if let Some(schema) = schema {
        success["content"] = json!({ media: { "schema": schema_reference(schema) } });
    }
    let problem = json!({ "description": "a problem", "content": { "application/problem+json": { "schema": schema_reference("Problem") } } });
    let mut operation = json!({ "summary": route.summary, "responses": { status: success, "default": problem } });
    if let Some(body) = route.body {
        operation["requestBody"] =
            json!({ "required": true, "content": { JSON: { "schema": schema_reference(body) } } });
    }
    let names: Vec<&str> = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
    if !names.is_empty() {
        operation["parameters"] = names
            .iter()
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect_references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(target)) = members.get("$ref") {
                    found.push(target.clone());
                }
                members.values().for_each(|member| collect_references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_schema_reference_resolves() {
        let document = document();
        let mut found = Vec::new();
        collect_references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for target in found {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
        }
    }
}
