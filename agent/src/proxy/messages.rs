//! The messages of the proxy, one function per situation. Each states what happened and what to do next.

use std::collections::BTreeSet;

use http::StatusCode;
use strings::edit_distance;

use super::forward::Failure;
use super::headers::HOPS_MAX;
use super::page::{Link, Page};
use super::pool::{HEADER_BYTES_MAX, HEADERS_MAX};
use super::routes::{PreviewRoutes, RouteTable, RouteTarget, SUFFIX, ServiceState};

const LOG_LINES_MAX: usize = 20;
const START_RETRY_SECONDS: u32 = 2;

/// No preview has this host: 404, never the service of another host.
pub(super) fn unknown_host(table: &RouteTable, host: &str, port: u16) -> Page {
    let labels = HostLabels::parse(host);
    let of_app: Vec<_> = table.previews().filter(|preview| preview.app == labels.app).collect();
    let detail = if of_app.is_empty() {
        format!("No preview of an app `{}` runs on this machine.", labels.app)
    } else {
        format!("`{}` has {} on this machine, but none with this name.", labels.app, pluralise(of_app.len(), "preview"))
    };
    let known_branch = of_app.iter().find(|preview| Some(preview.branch.as_str()) == labels.branch);
    let hint = match (known_branch, labels.branch) {
        (Some(preview), _) => format!(
            "`{}` is running and has the {}: {}.",
            preview.branch,
            if preview.services.len() == 1 { "service" } else { "services" },
            preview.services.iter().map(|route| format!("`{}`", route.target.service)).collect::<Vec<_>>().join(", "),
        ),
        (None, Some(branch)) => match nearest_name(branch, of_app.iter().map(|preview| preview.branch.as_str())) {
            Some(near) => format!(
                "The nearest branch is `{near}`. To start this one, run `pdev up` in the checkout of `{branch}`."
            ),
            None => format!("To start it, run `pdev up` in the checkout of `{branch}`."),
        },
        (None, None) => "To start it, run `pdev up` in its checkout.".to_owned(),
    };
    Page {
        status: StatusCode::NOT_FOUND,
        code: "unknown-host",
        title: format!("nothing runs at {host}"),
        detail,
        hint,
        links: of_app.iter().flat_map(|preview| preview_links(preview, port)).collect(),
        ..Page::default()
    }
}

/// App and branch of an unknown host, read from the right.
struct HostLabels<'a> {
    app: &'a str,
    branch: Option<&'a str>,
}

impl<'a> HostLabels<'a> {
    fn parse(host: &'a str) -> Self {
        let labels = host.strip_suffix(SUFFIX).unwrap_or(host).trim_end_matches('.');
        let mut labels = labels.rsplit('.');
        Self { app: labels.next().unwrap_or(""), branch: labels.next() }
    }
}

pub(super) fn renamed_host(old: &str, new: &str, port: u16) -> Page {
    let url = format!("http://{new}:{port}/");
    Page {
        status: StatusCode::NOT_FOUND,
        code: "renamed-host",
        title: format!("{old} has a new name"),
        detail: format!("The branch was renamed; its preview is now at `{url}`."),
        links: vec![Link { text: new.to_owned(), url }],
        ..Page::default()
    }
}

pub(super) fn no_service(table: &RouteTable, preview_id: &str, path: &str, port: u16) -> Page {
    let preview = table.previews().find(|preview| preview.id == preview_id);
    Page {
        status: StatusCode::NOT_FOUND,
        code: "no-service-for-path",
        title: "no service owns this path".to_owned(),
        detail: format!(
            "The preview is running, but none of its services has a route for `{path}`, and it has no default service."
        ),
        hint: "Add `routes: [\"/\"]` to a service in `pdev.yaml`, or use the service's own URL.".to_owned(),
        links: preview.map(|preview| preview_links(preview, port)).unwrap_or_default(),
        ..Page::default()
    }
}

/// The page of the status host. It is the only page that lists the previews of all apps.
pub(super) fn status(table: &RouteTable, port: u16) -> Page {
    let previews: Vec<_> = table.previews().collect();
    let detail = match previews.len() {
        0 => "No preview is running.".to_owned(),
        count => format!("{} known.", pluralise(count, "preview")),
    };
    let hint = if previews.is_empty() { "To start one, run `pdev up` in a folder with a `pdev.yaml`." } else { "" };
    Page {
        status: StatusCode::OK,
        code: "status",
        title: "pdev".to_owned(),
        detail,
        hint: hint.to_owned(),
        links: previews.iter().flat_map(|preview| preview_links(preview, port)).collect(),
        ..Page::default()
    }
}

/// The page of the status host for a client without the user's token.
pub(super) fn list_is_closed() -> Page {
    Page {
        status: StatusCode::UNAUTHORIZED,
        code: "list-closed",
        title: "pdev".to_owned(),
        detail: "This list of all previews is for the user who runs them.".to_owned(),
        hint: "To open it, run `pdev open --list`.".to_owned(),
        ..Page::default()
    }
}

pub(super) fn starting(target: &RouteTarget) -> Page {
    Page {
        status: StatusCode::OK,
        code: "starting",
        title: format!("{} is starting", target.service),
        detail: "This page reloads automatically.".to_owned(),
        hint: format!("To watch it start, run `pdev logs {} --follow`.", target.service),
        retry_after_seconds: Some(1),
        should_reload: true,
        ..Page::default()
    }
}

pub(super) fn still_starting(target: &RouteTarget, waited_seconds: u64) -> Page {
    Page {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "still-starting",
        title: format!("{} is still starting", target.service),
        detail: format!("The request waited for {waited_seconds} seconds."),
        hint: format!("To see why, run `pdev logs {}`.", target.service),
        retry_after_seconds: Some(START_RETRY_SECONDS),
        ..Page::default()
    }
}

pub(super) fn too_many_waiting(target: &RouteTarget) -> Page {
    Page { detail: "Too many requests are already waiting for it.".to_owned(), ..still_starting(target, 0) }
}

pub(super) fn too_many_tunnels(limit: usize) -> Page {
    Page {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "too-many-connections",
        title: "too many open WebSockets".to_owned(),
        detail: format!("{limit} are open, which is the limit."),
        hint: "Close browser tabs that you no longer need.".to_owned(),
        retry_after_seconds: Some(START_RETRY_SECONDS),
        ..Page::default()
    }
}

pub(super) fn stopped(target: &RouteTarget) -> Page {
    Page {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "stopped",
        title: format!("{} is stopped", target.service),
        hint: "To start it, run `pdev up`.".to_owned(),
        retry_after_seconds: Some(START_RETRY_SECONDS),
        ..Page::default()
    }
}

pub(super) fn failed(target: &RouteTarget, reason: &str, log: &[String]) -> Page {
    Page {
        status: StatusCode::BAD_GATEWAY,
        code: "service-failed",
        title: format!("{} failed", target.service),
        detail: reason.to_owned(),
        hint: format!("For all of its output, run `pdev logs {}`.", target.service),
        log: log[log.len().saturating_sub(LOG_LINES_MAX)..].to_vec(),
        ..Page::default()
    }
}

/// The page for a service that does not become ready without a new start. `None` if it is ready or starting.
pub(super) fn for_state(target: &RouteTarget) -> Option<Page> {
    match &target.state {
        ServiceState::Ready | ServiceState::Starting => None,
        ServiceState::Stopped => Some(stopped(target)),
        ServiceState::Failed { reason, log } => Some(failed(target, reason, log)),
    }
}

pub(super) fn upstream_failure(target: &RouteTarget, failure: &Failure) -> Page {
    let service = &target.service;
    let (status, code, title, detail) = match failure {
        Failure::Unreachable(unreachable) => {
            let tried: Vec<_> =
                unreachable.tried.iter().map(|(address, error)| format!("`{address}` ({})", error.kind())).collect();
            let tried = if tried.is_empty() {
                "it has no address".to_owned()
            } else {
                format!("tried {}", tried.join(" and "))
            };
            (
                StatusCode::BAD_GATEWAY,
                "unreachable",
                format!("{service} does not accept connections"),
                format!("{tried}."),
            )
        }
        Failure::ConnectionBroken { address, cause } => (
            StatusCode::BAD_GATEWAY,
            "broken-answer",
            format!("{service} did not answer"),
            format!("`{address}`: {cause}."),
        ),
        Failure::NotHttp { address, cause } => (
            StatusCode::BAD_GATEWAY,
            "not-http",
            format!("{service} did not answer with HTTP"),
            format!("`{address}`: {cause}."),
        ),
        Failure::HeadTooLarge { address } => (
            StatusCode::BAD_GATEWAY,
            "large-head",
            format!("{service} answered with too many headers"),
            format!("`{address}`: {}", header_limit()),
        ),
        Failure::TimedOut { address } => (
            StatusCode::GATEWAY_TIMEOUT,
            "slow-answer",
            format!("{service} did not answer in time"),
            format!("`{address}`: {failure}."),
        ),
    };
    let logs = format!("To see its output, run `pdev logs {service}`.");
    let hint = match failure {
        Failure::HeadTooLarge { .. } => {
            "Send fewer or smaller headers, for example cookies; to see them, call the service's own port.".to_owned()
        }
        // Next.js up to 16.2 rejects an origin with the bare word `Unauthorized`, without a status line.
        Failure::NotHttp { .. } => format!(
            "{logs} A development server that rejects an origin may answer like this; for Next.js, add \
             `allowedDevOrigins: ['**.localhost']` to its configuration."
        ),
        _ => logs,
    };
    Page { status, code, title, detail, hint, ..Page::default() }
}

/// RFC 6585, section 5.
pub(super) fn too_many_headers() -> Page {
    Page {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        code: "large-head",
        title: "the request has too many headers".to_owned(),
        detail: header_limit(),
        hint: "Send fewer or smaller headers; in a browser, delete the cookies of this host.".to_owned(),
        ..Page::default()
    }
}

fn header_limit() -> String {
    format!("The proxy passes at most {HEADERS_MAX} headers and {} KiB of them.", HEADER_BYTES_MAX / 1024)
}

pub(super) fn loop_detected(host: &str) -> Page {
    Page {
        status: StatusCode::LOOP_DETECTED,
        code: "loop",
        title: "this request is in a loop".to_owned(),
        detail: format!("It passed through the proxy more than {HOPS_MAX} times, the last time for `{host}`."),
        hint: "A development server that forwards to another service must send that service's host: set \
               `changeOrigin: true` in its proxy settings, or use `PDEV_INTERNAL_URL_<SERVICE>`."
            .to_owned(),
        ..Page::default()
    }
}

pub(super) fn bad_request(detail: &str) -> Page {
    Page {
        status: StatusCode::BAD_REQUEST,
        code: "bad-request",
        title: "this request cannot be routed".to_owned(),
        detail: detail.to_owned(),
        ..Page::default()
    }
}

pub(super) fn connect_not_allowed() -> Page {
    Page {
        status: StatusCode::METHOD_NOT_ALLOWED,
        code: "method-not-allowed",
        title: "CONNECT is not supported".to_owned(),
        detail: "This reverse proxy forwards to previews, not to arbitrary hosts.".to_owned(),
        ..Page::default()
    }
}

fn preview_links(preview: &PreviewRoutes, port: u16) -> Vec<Link> {
    let hosts: BTreeSet<String> = std::iter::once(preview.host())
        .chain(preview.services.iter().map(|route| preview.service_host(&route.target.service)))
        .collect();
    hosts.into_iter().map(|host| Link { url: format!("http://{host}:{port}/"), text: host }).collect()
}

fn pluralise(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The name with the fewest edits; among equal ones the alphabetically first.
fn nearest_name<'a>(unknown: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names.map(|name| (edit_distance(unknown, name), name));
    scored.min().map(|(_, name)| name)
}
