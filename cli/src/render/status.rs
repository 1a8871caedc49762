//! Previews and units as tables.

use protocol::identity::{IdentityState, IdentityStatus};
use protocol::status::{PreviewState, PreviewStatus, ProcessEnvironment, UnitState, UnitStatus};

use super::problem;
use super::table::{self, Cell};
use crate::humanize;
use crate::terminal::Paint;

pub(crate) fn preview_state_label(state: PreviewState) -> (&'static str, &'static str) {
    match state {
        PreviewState::Starting => ("starting", "33"),
        PreviewState::Ready => ("ready", "32"),
        PreviewState::Degraded => ("degraded", "33"),
        PreviewState::Failed => ("failed", "31"),
        PreviewState::Stopping => ("stopping", "33"),
        PreviewState::Down => ("down", "2"),
    }
}

pub(crate) fn unit_state_label(state: UnitState) -> (&'static str, &'static str) {
    match state {
        UnitState::Waiting => ("waiting", "2"),
        UnitState::Preparing => ("preparing", "33"),
        UnitState::Starting => ("starting", "33"),
        UnitState::Ready => ("ready", "32"),
        UnitState::Unhealthy => ("unhealthy", "31"),
        UnitState::Restarting => ("restarting", "33"),
        UnitState::Done => ("done", "32"),
        UnitState::Failed => ("failed", "31"),
        UnitState::Stopping => ("stopping", "33"),
        UnitState::Stopped => ("stopped", "2"),
    }
}

pub(crate) fn preview_table(previews: &[PreviewStatus], now: i64, home: Option<&str>, paint: Paint) -> Vec<String> {
    let rows: Vec<Vec<Cell>> = previews
        .iter()
        .map(|preview| {
            let (state, codes) = preview_state_label(preview.state);
            let is_down = preview.state == PreviewState::Down;
            let healthy = preview.units.iter().filter(|unit| is_healthy(unit.state)).count();
            let units = if is_down { String::new() } else { format!("{healthy}/{}", preview.units.len()) };
            let since = preview.ready_at.filter(|_| !is_down).map(|at| humanize::age(at, now)).unwrap_or_default();
            let gone = if preview.folder_present { "" } else { " (gone)" };
            let session = preview.session.as_ref().map(|session| format!(" (session {session})")).unwrap_or_default();
            vec![
                Cell::painted(&preview.preview.title, "1"),
                Cell::painted(state, codes),
                Cell::new(units),
                Cell::new(since),
                Cell::painted(preview.url.as_deref().unwrap_or_default(), "36"),
                Cell::painted(format!("{}{gone}{session}", short_folder(&preview.folder, home)), "2"),
            ]
        })
        .collect();
    table::lines(&["PREVIEW", "STATE", "HEALTHY", "FOR", "URL", "FOLDER"], &rows, 0, paint)
}

fn is_healthy(state: UnitState) -> bool {
    matches!(state, UnitState::Ready | UnitState::Done)
}

fn short_folder(folder: &str, home: Option<&str>) -> String {
    match home.and_then(|home| folder.strip_prefix(home)) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("~{rest}"),
        _ => folder.to_owned(),
    }
}

/// One preview with its units and problems.
pub(crate) fn preview_detail(preview: &PreviewStatus, now: i64, home: Option<&str>, paint: Paint) -> Vec<String> {
    let (state, codes) = preview_state_label(preview.state);
    let since = match (preview.state, preview.ready_at) {
        (PreviewState::Ready, Some(at)) => format!(" for {}", humanize::age(at, now)),
        _ => String::new(),
    };
    let mut lines = vec![format!(
        "{}  {}{since}  {}",
        paint.bold(&preview.preview.title),
        paint.with_codes(codes, state),
        paint.cyan(preview.url.as_deref().unwrap_or_default()),
    )];
    let gone = if preview.folder_present { "" } else { " (gone; `pdev down` with the name above still works)" };
    lines.push(paint.dim(&format!("{}{gone}", short_folder(&preview.folder, home))));
    if let Some(session) = &preview.session {
        let note = format!("started in session {session}: identities provide only what that session may have");
        lines.push(paint.yellow(&note));
    }
    if preview.process_environment == Some(ProcessEnvironment::Agent) {
        let note = "local processes have the environment of the agent, because no `pdev up` of a shell is recorded";
        lines.push(paint.yellow(note));
    }
    if !preview.units.is_empty() {
        lines.push(String::new());
        lines.extend(unit_table(&preview.units, now, paint));
    }
    for problem in &preview.problems {
        lines.push(String::new());
        lines.extend(problem::lines(problem, paint));
    }
    lines.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    lines
}

/// Warnings for identities of these units that need a login or fail, each with the reason and the fix.
pub(crate) fn identity_warnings(units: &[UnitStatus], statuses: &[IdentityStatus], paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    for status in statuses {
        let uses_identity = |unit: &&UnitStatus| unit.identity.as_ref() == Some(&status.name);
        let users: Vec<String> = units.iter().filter(uses_identity).map(|unit| format!("`{}`", unit.name)).collect();
        let reason = match (status.state, &status.problem) {
            _ if users.is_empty() => continue,
            (_, Some(problem)) => problem.title.clone(),
            (IdentityState::NeedsLogin, None) => "no user is signed in".to_owned(),
            _ => continue,
        };
        let message = format!("`{}` of {}: {reason}", status.name, users.join(", "));
        lines.extend([String::new(), format!("{} {message}", paint.yellow("warning:"))]);
        let hint = status.problem.as_ref().and_then(|problem| problem.hint.clone());
        let login = || status.sign_in.as_ref().map(|name| format!("Run `pdev login {name}` to sign in."));
        lines.extend(hint.or_else(login).map(|hint| paint.dim(&format!("  {hint}"))));
    }
    lines
}

fn unit_table(units: &[UnitStatus], now: i64, paint: Paint) -> Vec<String> {
    let rows: Vec<Vec<Cell>> = units.iter().map(|unit| unit_row(unit, now)).collect();
    table::lines(&["UNIT", "STATE", "FOR", "RUNTIME", "ADDRESS", "CRASHES", "NOTE"], &rows, 2, paint)
}

fn unit_row(unit: &UnitStatus, now: i64) -> Vec<Cell> {
    let (state, codes) = unit_state_label(unit.state);
    let since = match unit.state {
        UnitState::Ready => unit.ready_at.or(unit.started_at),
        UnitState::Starting | UnitState::Unhealthy => unit.started_at,
        _ => None,
    };
    let ports = || unit.ports.values().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(" ");
    let crashes = if unit.restarts == 0 { String::new() } else { unit.restarts.to_string() };
    let identity = unit.identity.as_ref().map(|name| format!("as {name}"));
    let note = [unit.reason.as_deref(), unit.module.as_deref(), identity.as_deref()];
    let note: Vec<&str> = note.into_iter().flatten().collect();
    vec![
        Cell::painted(&unit.name, "1"),
        Cell::painted(state, codes),
        Cell::new(since.map(|at| humanize::age(at, now)).unwrap_or_default()),
        Cell::new(&unit.runtime),
        Cell::painted(unit.url.clone().unwrap_or_else(ports), "36"),
        Cell::painted(crashes, "33"),
        Cell::painted(note.join(", "), "2"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::status::PreviewRef;

    #[test]
    fn preview_table_and_detail_are_rendered() {
        let unit = |name: &str, state, at| UnitStatus {
            name: name.into(),
            runtime: "docker".into(),
            state,
            ready_at: Some(at),
            ports: [("http".to_owned(), 40_001)].into(),
            ..UnitStatus::default()
        };
        let preview = PreviewStatus {
            preview: PreviewRef { title: "shop/main".into(), ..PreviewRef::default() },
            state: PreviewState::Degraded,
            folder: "/home/me/shop".into(),
            folder_present: true,
            url: Some("http://main.shop.localhost:8642".into()),
            process_environment: Some(ProcessEnvironment::Agent),
            units: vec![
                unit("db", UnitState::Ready, 0),
                UnitStatus {
                    reason: Some("GET / answered 503".into()),
                    restarts: 2,
                    identity: Some("shop-dev".into()),
                    ..unit("web", UnitState::Unhealthy, 0)
                },
            ],
            ready_at: Some(0),
            session: Some("robot".into()),
            problems: Vec::new(),
        };
        let plain = Paint { is_enabled: false };
        assert_eq!(
            preview_table(std::slice::from_ref(&preview), 61_000, Some("/home/me"), plain).join("\n"),
            "PREVIEW    STATE     HEALTHY  FOR        URL                              FOLDER\n\
             shop/main  degraded  1/2      1 min 1 s  http://main.shop.localhost:8642  ~/shop (session robot)"
        );
        assert_eq!(
            preview_detail(&preview, 61_000, None, plain).join("\n"),
            "shop/main  degraded  http://main.shop.localhost:8642\n\
             /home/me/shop\n\
             started in session robot: identities provide only what that session may have\n\
             local processes have the environment of the agent, because no `pdev up` of a shell is recorded\n\n  \
             UNIT  STATE      FOR        RUNTIME  ADDRESS          CRASHES  NOTE\n  \
             db    ready      1 min 1 s  docker   127.0.0.1:40001\n  \
             web   unhealthy             docker   127.0.0.1:40001  2        GET / answered 503, as shop-dev"
        );
    }

    #[test]
    fn identity_that_needs_login_is_warned_about() {
        let unit = |name: &str, identity: &str| UnitStatus {
            name: name.into(),
            identity: Some(identity.into()),
            ..UnitStatus::default()
        };
        let units = [unit("api", "a"), unit("jobs", "a"), unit("web", "b")];
        let status = |name: &str, state, sign_in: Option<&str>| IdentityStatus {
            name: name.into(),
            state,
            sign_in: sign_in.map(str::to_owned),
            ..IdentityStatus::default()
        };
        let statuses = [
            status("a", IdentityState::NeedsLogin, Some("base")),
            status("b", IdentityState::Ready, None),
            status("c", IdentityState::NeedsLogin, Some("c")),
        ];
        assert_eq!(
            identity_warnings(&units, &statuses, Paint { is_enabled: false }),
            ["", "warning: `a` of `api`, `jobs`: no user is signed in", "  Run `pdev login base` to sign in."]
        );
    }
}
