//! The messages of the proxy, one function per situation: what happened, and what to do about it.

use std::collections::BTreeSet;

use http::StatusCode;

use super::forward::Failure;
use super::headers::HOPS_MAX;
use super::page::Page;
use super::routes::{PreviewRoutes, RouteTable, RouteTarget, SUFFIX, ServiceState};

const LOG_LINES_MAX: usize = 20;
const START_RETRY_SECONDS: u32 = 2;

/// Nobody answers to this name: 404, never somebody else's service.
pub(super) fn unknown_host(table: &RouteTable, host: &str, port: u16) -> Page {
    let wanted = HostLabels::parse(host);
    let of_app: Vec<_> = table.previews().filter(|preview| preview.app == wanted.app).collect();
    let detail = if of_app.is_empty() {
        format!("No preview of an app `{}` runs here.", wanted.app)
    } else {
        format!("`{}` has {} on this machine, but none of this name.", wanted.app, pluralise(of_app.len(), "preview"))
    };
    let known_branch = of_app.iter().find(|preview| Some(preview.branch.as_str()) == wanted.branch);
    let hint = match (known_branch, wanted.branch) {
        (Some(preview), _) => format!(
            "`{}` runs and has the {}: {}.",
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

/// The parts of a host that nobody answers to, read from the right.
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
        links: vec![(new.to_owned(), url)],
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
            "The preview runs, but none of its services has a route for `{path}`, and none is its default."
        ),
        hint: "Give a service `routes: [\"/\"]` in `pdev.yaml`, or use the service's own URL.".to_owned(),
        links: preview.map(|preview| preview_links(preview, port)).unwrap_or_default(),
        ..Page::default()
    }
}

/// The only page that names the previews of more than one app; it is asked for by its own host.
pub(super) fn status(table: &RouteTable, port: u16) -> Page {
    let previews: Vec<_> = table.previews().collect();
    let detail = match previews.len() {
        0 => "No preview runs.".to_owned(),
        some => format!("{} known.", pluralise(some, "preview")),
    };
    let hint = if previews.is_empty() { "To start one, run `pdev up` beside a `pdev.yaml`." } else { "" };
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

pub(super) fn starting(target: &RouteTarget) -> Page {
    Page {
        status: StatusCode::OK,
        code: "starting",
        title: format!("{} is starting", target.service),
        detail: "This page asks again by itself.".to_owned(),
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
        detail: format!("The request was held for {waited_seconds} seconds."),
        hint: format!("To see what it waits for, run `pdev logs {}`.", target.service),
        retry_after_seconds: Some(START_RETRY_SECONDS),
        ..Page::default()
    }
}

pub(super) fn too_many_waiting(target: &RouteTarget) -> Page {
    Page { detail: "Too many requests wait for it already.".to_owned(), ..still_starting(target, 0) }
}

pub(super) fn too_many_tunnels(most: usize) -> Page {
    Page {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "too-many-connections",
        title: "too many open WebSockets".to_owned(),
        detail: format!("{most} are open, and that is the limit."),
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

/// What a service that is not ready answers, if it is not worth waiting.
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
            format!("{service} gave no answer"),
            format!("`{address}`: {cause}."),
        ),
        Failure::NotHttp { address, cause } => (
            StatusCode::BAD_GATEWAY,
            "not-http",
            format!("{service} did not answer in HTTP"),
            format!("`{address}`: {cause}."),
        ),
        Failure::TimedOut { address } => (
            StatusCode::GATEWAY_TIMEOUT,
            "slow-answer",
            format!("{service} did not answer in time"),
            format!("`{address}`: {failure}."),
        ),
    };
    let logs = format!("To see what it does, run `pdev logs {service}`.");
    let hint = match failure {
        // Seen with Next.js up to 16.2, whose refusal is the bare word `Unauthorized` without a status line.
        Failure::NotHttp { .. } => format!(
            "{logs} A development server that refuses an origin may answer like this; for Next.js, add \
             `allowedDevOrigins: ['**.localhost']` to its configuration."
        ),
        _ => logs,
    };
    Page { status, code, title, detail, hint, ..Page::default() }
}

pub(super) fn loop_detected(host: &str) -> Page {
    Page {
        status: StatusCode::LOOP_DETECTED,
        code: "loop",
        title: "this request goes round in circles".to_owned(),
        detail: format!("It came through the proxy more than {HOPS_MAX} times, the last time for `{host}`."),
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
        title: "CONNECT is not served".to_owned(),
        detail: "This is a reverse proxy: it leads to previews, not to arbitrary hosts.".to_owned(),
        ..Page::default()
    }
}

fn preview_links(preview: &PreviewRoutes, port: u16) -> Vec<(String, String)> {
    let hosts: BTreeSet<String> = std::iter::once(preview.host())
        .chain(preview.services.iter().map(|route| preview.service_host(&route.target.service)))
        .collect();
    hosts.into_iter().map(|host| (host.clone(), format!("http://{host}:{port}/"))).collect()
}

fn pluralise(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The name with the fewest edits; of equals the first by name.
fn nearest_name<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names.map(|name| (edit_distance(wanted, name), name));
    scored.min().map(|(_, name)| name)
}

/// Edits between two labels (Levenshtein); labels are at most 63 bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
